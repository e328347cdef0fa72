// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/data_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <thread>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"

namespace vhost::inprocess {
namespace {

using namespace std::chrono_literals;
using kernel_abi::EventFd;

constexpr uint32_t kKick = EPOLLIN | EPOLLET;

// A task that does what the test says, and counts.
class CountingTask final : public DataTask {
 public:
  bool Poll() override {
    ++polls;
    ExpectAlone();
    return on_poll ? on_poll() : false;
  }
  bool Arm() override {
    ++arms;
    return arm_answers-- > 0;
  }
  void OnReady(uint32_t token, uint32_t events) override {
    ++events_seen;
    last_token = token;
    last_events = events;
    if (on_ready) on_ready();
  }
  void OnTimer() override {
    ++timers;
    if (on_timer) on_timer();
  }

  std::function<bool()> on_poll;
  std::function<void()> on_ready;
  std::function<void()> on_timer;
  std::atomic<int> polls = 0;
  std::atomic<int> arms = 0;
  std::atomic<int> arm_answers = 0;
  std::atomic<int> events_seen = 0;
  std::atomic<int> timers = 0;
  std::atomic<uint32_t> last_token = 0;
  std::atomic<uint32_t> last_events = 0;
  int unguarded = 0;  // ThreadSanitizer sees whether the thread's promise holds

 private:
  void ExpectAlone() { ++unguarded; }
};

bool Eventually(const std::function<bool()>& what) {
  const auto until = DataThread::Clock::now() + 20s;
  while (DataThread::Clock::now() < until) {
    if (what()) return true;
    std::this_thread::sleep_for(100us);
  }
  return false;
}

class DataThreadTest : public testing::Test {
 protected:
  void SetUp() override { Begin({}); }
  void Begin(DataThreadOptions options) {
    thread_.reset();
    auto thread = DataThread::Create(kernel_, std::move(options));
    ASSERT_TRUE(thread.ok()) << thread.status();
    thread_ = *std::move(thread);
  }
  bool BecomesQuiet(int ms = 20) {
    // Asleep, and stays so.
    return Eventually([&] {
      const uint64_t rounds = thread_->stats().rounds;
      std::this_thread::sleep_for(std::chrono::milliseconds(ms));
      return thread_->stats().rounds == rounds;
    });
  }
  EventFd NewEventFd() { return *EventFd::Create(kernel_); }

  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  std::unique_ptr<DataThread> thread_;
};

TEST_F(DataThreadTest, PollsANewTaskAtOnceAndArmsItBeforeItSleeps) {
  CountingTask task;
  thread_->Add(task);
  EXPECT_TRUE(Eventually([&] { return task.arms == 1; }));
  EXPECT_GE(task.polls, 1);
  EXPECT_TRUE(BecomesQuiet());
  EXPECT_EQ(task.arms, 1);
  thread_->Remove(task);
}

TEST_F(DataThreadTest, PollsAgainWhenArmingFoundWork) {
  CountingTask task;
  task.arm_answers = 3;
  thread_->Add(task);
  EXPECT_TRUE(Eventually([&] { return task.arms == 4; }));
  EXPECT_GE(task.polls, 4);
  thread_->Remove(task);
}

TEST_F(DataThreadTest, AKickWakesAndIsNotRead) {
  CountingTask task;
  const EventFd kick = NewEventFd();
  thread_->Call([&] {
    thread_->Add(task);
    ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 7).ok());
  });
  for (int i = 1; i <= 50; ++i) {
    ASSERT_TRUE(BecomesQuiet(1));
    kick.Signal();
    ASSERT_TRUE(Eventually([&] { return task.events_seen >= i; })) << i;
    EXPECT_EQ(task.last_token, 7u);
  }
  EXPECT_TRUE(kick.IsSignalled());
  // A kick that finds the task not yet quiet wakes nobody.
  EXPECT_LE(thread_->task_stats(task).wake_ups, 50u);
  EXPECT_GT(thread_->task_stats(task).wake_ups, 0u);
  thread_->Remove(task);
}

TEST_F(DataThreadTest, AKickFromBeforeTheWatchIsSeen) {
  CountingTask task;
  const EventFd kick = NewEventFd();
  kick.Signal();
  thread_->Add(task);
  ASSERT_TRUE(BecomesQuiet(1));
  ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 1).ok());
  EXPECT_TRUE(Eventually([&] { return task.events_seen == 1; }));
  thread_->Remove(task);
}

TEST_F(DataThreadTest, SleepsWhileNothingHappens) {
  CountingTask task;
  const EventFd kick = NewEventFd();
  thread_->Add(task);
  ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 1).ok());
  ASSERT_TRUE(BecomesQuiet());
  const uint64_t before = *thread_->Report().cpu_time_ns;
  std::this_thread::sleep_for(300ms);
  EXPECT_LT(*thread_->Report().cpu_time_ns - before, 1'500'000u) << "0.5 % of the time";
  thread_->Remove(task);
}

TEST_F(DataThreadTest, ACallIsAloneAndFindsNoTaskRunning) {
  CountingTask task;
  task.on_poll = [] { return true; };  // Never quiet.
  thread_->Add(task);
  for (int i = 0; i < 1000; ++i) thread_->Call([&] { ++task.unguarded; });
  thread_->Remove(task);
  const int polls = task.polls;
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(task.polls, polls);
}

TEST_F(DataThreadTest, ACallOfASleepingThreadDoesNotWakeIt) {
  CountingTask task;
  thread_->Add(task);
  ASSERT_TRUE(BecomesQuiet());
  const uint64_t sleeps = thread_->stats().sleeps;
  const int polls = task.polls;
  for (int i = 0; i < 100; ++i) thread_->Call([] {});
  thread_->Remove(task);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(thread_->stats().sleeps, sleeps);
  EXPECT_EQ(task.polls, polls);
}

TEST_F(DataThreadTest, ATaskMayCallInAndRemoveItselfAndOthers) {
  CountingTask first;
  CountingTask second;
  const EventFd kick = NewEventFd();
  std::atomic<bool> gone = false;
  first.on_ready = [&] {
    thread_->Call([&] {
      thread_->Remove(second);
      thread_->Remove(first);
    });
    gone = true;
  };
  thread_->Call([&] {
    thread_->Add(first);
    thread_->Add(second);
    ASSERT_TRUE(thread_->Watch(first, kick.get(), kKick, 0).ok());
  });
  kick.Signal();
  ASSERT_TRUE(Eventually([&] { return gone.load(); }));
  kick.Signal();
  EXPECT_TRUE(BecomesQuiet());
  EXPECT_EQ(first.events_seen, 1);
}

TEST_F(DataThreadTest, AWatchThatEndedIsNotToldOfAnyMore) {
  CountingTask task;
  const EventFd kick = NewEventFd();
  thread_->Add(task);
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 0).ok());
    EXPECT_EQ(thread_->Watch(task, kick.get(), kKick, 0).code(), absl::StatusCode::kAlreadyExists);
    kick.Signal();
    int seen = 0;
    thread_->Call([&] {
      thread_->Unwatch(task, kick.get());
      seen = task.events_seen;
    });
    kick.Signal();
    std::this_thread::sleep_for(50us);
    ASSERT_EQ(task.events_seen, seen);
  }
  thread_->Remove(task);
}

TEST_F(DataThreadTest, ChangingTheInterestTellsAnewWhatIsReady) {
  CountingTask task;
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
  const kernel_abi::UniqueFd ours(pair[0]);
  const kernel_abi::UniqueFd theirs(pair[1]);
  thread_->Add(task);
  ASSERT_TRUE(thread_->Watch(task, ours.get(), EPOLLIN | EPOLLET, 3).ok());
  ASSERT_TRUE(BecomesQuiet(1));
  EXPECT_EQ(task.events_seen, 0);
  ASSERT_TRUE(thread_->SetInterest(task, ours.get(), EPOLLOUT | EPOLLET).ok());
  EXPECT_TRUE(Eventually([&] { return (task.last_events & EPOLLOUT) != 0; }));
  ASSERT_TRUE(thread_->SetInterest(task, ours.get(), EPOLLIN | EPOLLET).ok());
  EXPECT_EQ(thread_->SetInterest(task, 12345, EPOLLIN).code(), absl::StatusCode::kNotFound);
  thread_->Remove(task);
}

TEST_F(DataThreadTest, TimersComeOnceAndCanBeTakenBack) {
  CountingTask task;
  thread_->Add(task);
  ASSERT_TRUE(BecomesQuiet(1));
  const auto begin = DataThread::Clock::now();
  thread_->SetTimer(task, begin + 30ms);
  EXPECT_TRUE(Eventually([&] { return task.timers == 1; }));
  EXPECT_GE(DataThread::Clock::now() - begin, 30ms);
  thread_->SetTimer(task, DataThread::Clock::now() + 10ms);
  thread_->SetTimer(task, std::nullopt);
  std::this_thread::sleep_for(30ms);
  EXPECT_EQ(task.timers, 1);
  // One that sets itself again.
  task.on_timer = [&] {
    if (task.timers < 5) thread_->SetTimer(task, DataThread::Clock::now() + 1ms);
  };
  thread_->SetTimer(task, DataThread::Clock::now());
  EXPECT_TRUE(Eventually([&] { return task.timers == 5; }));
  thread_->Remove(task);
}

TEST_F(DataThreadTest, TheWindowOpensForQuickAnswersAndShutsForSlowOnes) {
  if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "skipped: one CPU";
  CountingTask task;
  const EventFd kick = NewEventFd();
  thread_->Call([&] {
    thread_->Add(task);
    ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 0).ok());
  });
  ASSERT_TRUE(BecomesQuiet());
  // One after the other without a pause. Other programs may preempt us, so for a while.
  EXPECT_TRUE(Eventually([&] {
    const int seen = task.events_seen;
    kick.Signal();
    const auto until = DataThread::Clock::now() + 1ms;
    while (task.events_seen == seen && DataThread::Clock::now() < until) continue;
    return thread_->stats().window_ns > 0;
  }));
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(2ms);
    kick.Signal();
  }
  EXPECT_TRUE(Eventually([&] {
    std::this_thread::sleep_for(2ms);
    kick.Signal();
    return thread_->stats().window_ns == 0;
  }));
  thread_->Remove(task);
}

TEST_F(DataThreadTest, NeverPollsWithoutWorkWhereThatIsForbiddenOrOnOneCpu) {
  cpu_set_t all;
  cpu_set_t one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(::sched_getcpu()), &one);
  for (const bool one_cpu : {false, true}) {
    if (one_cpu) {
      ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    }
    Begin(one_cpu ? DataThreadOptions{} : DataThreadOptions{.busy_poll_us = 0});
    ::sched_setaffinity(0, sizeof(all), &all);
    CountingTask task;
    const EventFd kick = NewEventFd();
    thread_->Call([&] {
      thread_->Add(task);
      ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 0).ok());
    });
    for (int i = 0; i < 2000; ++i) kick.Signal();
    EXPECT_TRUE(BecomesQuiet());
    EXPECT_EQ(thread_->stats().window_ns, 0u);
    EXPECT_EQ(task.arms, task.polls);
    thread_->Remove(task);
  }
}

TEST_F(DataThreadTest, RunsWhereItWasPlacedUnderItsName) {
  Begin({.name = "net0-with-a-long-name", .placement = {.cpus = {0}, .nice = 3}});
  const WorkerReport report = thread_->Report();
  EXPECT_EQ(report.name, "net0-with-a-lon");
  EXPECT_EQ(report.affinity, "0");
  EXPECT_EQ(report.nice, 3);
  EXPECT_NE(report.tid, ::gettid());
}

TEST_F(DataThreadTest, SaysWhyItCannotBePlaced) {
  const auto thread = DataThread::Create(kernel_, {.placement = {.cgroup = "/no/such/cgroup"}});
  EXPECT_THAT(std::string(thread.status().message()),
              testing::StartsWith("data thread cgroup: open(/no/such/cgroup/tasks): ENOENT"));
}

TEST_F(DataThreadTest, ManyThreadsMayAddAndRemoveWhileTasksWork) {
  CountingTask busy;
  busy.on_poll = [] { return true; };
  thread_->Add(busy);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([this] {
      for (int i = 0; i < 200; ++i) {
        CountingTask task;
        const EventFd kick = NewEventFd();
        thread_->Add(task);
        ASSERT_TRUE(thread_->Watch(task, kick.get(), kKick, 0).ok());
        kick.Signal();
        thread_->Remove(task);
        ++task.unguarded;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  thread_->Remove(busy);
}

}  // namespace
}  // namespace vhost::inprocess

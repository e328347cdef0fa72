// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/epoll_loop.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

using kernel_abi::EventFd;

EventFd NewEvent() { return *EventFd::Create(kernel_abi::LinuxKernel()); }

TEST(EpollLoop, CallsBackWhenAnFdBecomesReadable) {
  auto loop = EpollLoop::Create();
  ASSERT_TRUE(loop.ok());
  const EventFd event = NewEvent();
  absl::Notification called;
  auto watch = (*loop)->WatchReadable(event.get(), [&] {
    event.Drain();
    called.Notify();
  });
  ASSERT_TRUE(watch.ok()) << watch.status();
  event.Signal();
  called.WaitForNotification();
}

TEST(EpollLoop, CallsAgainWhileTheFdStaysReadable) {
  auto loop = EpollLoop::Create();
  const EventFd event = NewEvent();
  int calls = 0;
  absl::Notification done;
  auto watch = (*loop)->WatchReadable(event.get(), [&] {
    if (++calls < 3) return;
    event.Drain();
    done.Notify();
  });
  event.Signal();
  done.WaitForNotification();
  EXPECT_EQ(calls, 3);
}

TEST(EpollLoop, EndingAWatchWaitsForItsCallback) {
  auto loop = EpollLoop::Create();
  const EventFd event = NewEvent();
  absl::Notification entered;
  bool finished = false;  // not atomic on purpose: ending the watch orders it
  auto watch = (*loop)->WatchReadable(event.get(), [&] {
    event.Drain();
    entered.Notify();
    absl::SleepFor(absl::Milliseconds(50));
    finished = true;
  });
  event.Signal();
  entered.WaitForNotification();
  watch->reset();
  EXPECT_TRUE(finished);
}

TEST(EpollLoop, NoCallAfterAWatchHasEnded) {
  auto loop = EpollLoop::Create();
  const EventFd event = NewEvent();
  for (int round = 0; round < 500; ++round) {
    auto alive = std::make_unique<int>(0);  // a use after it is freed is what sanitizers look for
    auto watch = (*loop)->WatchReadable(event.get(), [&event, counter = alive.get()] {
      event.Drain();
      ++*counter;
    });
    event.Signal();
    if (round % 3 == 0) std::this_thread::yield();
    watch->reset();
    alive.reset();
    event.Signal();
  }
}

TEST(EpollLoop, ACallbackMayEndItsOwnWatch) {
  auto loop = EpollLoop::Create();
  const EventFd event = NewEvent();
  absl::Notification ended;
  std::unique_ptr<Watch> watch;
  absl::Notification ready;
  const std::string text(100, 'x');  // captured by value, used after the watch is gone
  watch = *(*loop)->WatchReadable(event.get(), [&, text] {
    ready.WaitForNotification();
    watch.reset();
    EXPECT_EQ(text.size(), 100);
    ended.Notify();
  });
  ready.Notify();
  event.Signal();
  ended.WaitForNotification();
}

TEST(EpollLoop, ACallbackMayEndAnotherWatchThatIsDueToo) {
  auto loop = EpollLoop::Create();
  const EventFd gate = NewEvent();
  const EventFd first = NewEvent();
  const EventFd second = NewEvent();
  absl::Notification open;
  auto hold = (*loop)->WatchReadable(gate.get(), [&] {
    gate.Drain();
    open.WaitForNotification();  // both others become readable meanwhile
  });
  std::unique_ptr<Watch> watches[2];
  std::atomic<int> calls = 0;
  absl::Notification called;
  for (int i = 0; i < 2; ++i) {
    watches[i] = *(*loop)->WatchReadable((i == 0 ? first : second).get(), [&, i] {
      ++calls;
      watches[1 - i].reset();
      (i == 0 ? first : second).Drain();
      if (!called.HasBeenNotified()) called.Notify();
    });
  }
  gate.Signal();
  first.Signal();
  second.Signal();
  open.Notify();
  called.WaitForNotification();
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(calls, 1);
}

TEST(EpollLoop, OneFdMayBeWatchedTwice) {
  auto loop = EpollLoop::Create();
  const EventFd event = NewEvent();
  std::atomic<int> seen[2] = {};
  absl::Notification both;
  const auto note = [&](int which) {
    if (seen[which]++ == 0 && seen[1 - which] > 0) {
      event.Drain();
      both.Notify();
    }
  };
  auto first = (*loop)->WatchReadable(event.get(), [&] { note(0); });
  auto second = (*loop)->WatchReadable(event.get(), [&] { note(1); });
  ASSERT_TRUE(second.ok()) << second.status();
  event.Signal();
  both.WaitForNotification();
}

TEST(EpollLoop, RefusesAnFdThatCannotBeWatched) {
  auto loop = EpollLoop::Create();
  kernel_abi::UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const auto watch = (*loop)->WatchReadable(file.get(), [] {});
  EXPECT_EQ(kernel_abi::GetErrno(watch.status()), EPERM) << watch.status();
  EXPECT_EQ(kernel_abi::GetErrno((*loop)->WatchReadable(-1, [] {}).status()), EBADF);
}

TEST(EpollLoop, ItsThreadBlocksAllSignalsAndBearsItsName) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  auto loop = EpollLoop::Create("a-name-of-18-bytes");
  const EventFd event = NewEvent();
  absl::Notification called;
  sigset_t mask;
  std::string name;
  auto watch = (*loop)->WatchReadable(event.get(), [&] {
    event.Drain();
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    std::ifstream comm("/proc/thread-self/comm");
    std::getline(comm, name);
    called.Notify();
  });
  event.Signal();
  called.WaitForNotification();
  EXPECT_EQ(sigismember(&mask, SIGTERM), 1);
  EXPECT_EQ(sigismember(&mask, SIGPIPE), 1);
  EXPECT_EQ(name, "a-name-of-18-by");
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_EQ(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
}

}  // namespace
}  // namespace vhost

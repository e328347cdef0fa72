// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Workers are looked for in the real /proc, so here a thread of this test plays one: an owner
// request of its own makes a thread with the name that the kernel would give it.
#include "vhost/kernel/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/kernel/proc_thread.h"

namespace vhost {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class WorkerTest : public testing::Test {
 protected:
  ~WorkerTest() override { EndWorkers(); }

  // Plays VHOST_SET_OWNER of Linux 6.4 and newer: makes a thread that is called after its creator,
  // on the creator's CPUs and with its nice value.
  absl::Status SetOwner() {
    const std::string name = absl::StrCat("vhost-", ::gettid());
    std::atomic<pid_t> tid = 0;
    workers_.emplace_back([this, name, &tid] {
      ::prctl(PR_SET_NAME, name.c_str());
      tid = ::gettid();
      while (!stop_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    while (tid == 0) std::this_thread::yield();
    last_tid_ = tid;
    return absl::OkStatus();
  }
  // Returns when they are gone from /proc too, where they stay a moment longer than for join().
  void EndWorkers() {
    stop_ = true;
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    while (last_tid_ != 0 && ReadThreadFacts(last_tid_).has_value()) std::this_thread::yield();
  }
  absl::StatusOr<Worker> Start(const WorkerPlacement& placement = {}) {
    return Worker::Start(kernel_abi::LinuxKernel(), tids_, placement,
                         [this] { return SetOwner(); });
  }

  const TidCounter tids_;
  std::vector<std::thread> workers_;
  pid_t last_tid_ = 0;
  std::atomic<bool> stop_ = false;
};

TEST_F(WorkerTest, EachWorkerOfOneThreadIsFound) {
  std::vector<std::pair<Worker, pid_t>> all;
  for (int i = 0; i < 5; ++i) {
    absl::StatusOr<Worker> worker = Start();
    ASSERT_TRUE(worker.ok()) << worker.status();
    all.emplace_back(*std::move(worker), last_tid_);
  }
  for (const auto& [worker, tid] : all) {
    EXPECT_EQ(worker.tid(), tid);
    const WorkerReport report = worker.Report();
    EXPECT_EQ(report.name, absl::StrCat("vhost-", ::gettid()));
    EXPECT_TRUE(report.cpu_time_ns.has_value());
    EXPECT_THAT(report.unknown_because, IsEmpty());
  }
}

TEST_F(WorkerTest, APlacedWorkerInheritsAndTheCallerStaysWhereItIs) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  int first_cpu = 0;
  while (!CPU_ISSET(static_cast<size_t>(first_cpu), &before)) ++first_cpu;
  const absl::StatusOr<Worker> worker = Start({.cpus = {first_cpu}, .nice = 7});
  ASSERT_TRUE(worker.ok()) << worker.status();
  const WorkerReport report = worker->Report();
  EXPECT_EQ(report.tid, last_tid_);
  EXPECT_EQ(report.affinity, absl::StrCat(first_cpu));
  EXPECT_EQ(report.nice, 7);
  cpu_set_t after;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  EXPECT_NE(ReadThreadFacts(::gettid())->nice, 7);
}

TEST_F(WorkerTest, ACpuThatIsNotThereIsNamedAndNoWorkerMade) {
  const absl::StatusOr<Worker> worker = Start({.cpus = {1000}});
  EXPECT_EQ(kernel_abi::GetErrno(worker.status()), EINVAL);
  EXPECT_THAT(worker.status().message(), HasSubstr("cpus=1000"));
  EXPECT_EQ(Start({.cpus = {-1}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(workers_.empty());
}

TEST_F(WorkerTest, ACgroupThatIsNotThereIsNamed) {
  const absl::StatusOr<Worker> worker = Start({.cgroup = "/sys/fs/cgroup/no/such"});
  EXPECT_EQ(kernel_abi::GetErrno(worker.status()), ENOENT);
  EXPECT_THAT(worker.status().message(), HasSubstr("make the cgroup first"));
}

TEST_F(WorkerTest, ThatTheOwnerRequestFailsIsReturnedAsItIs) {
  const absl::Status refused = kernel_abi::MakeSystemError(
      {.error = ENOMEM, .subject = "/dev/vhost-net", .call = "VHOST_SET_OWNER"});
  EXPECT_EQ(Worker::Start(kernel_abi::LinuxKernel(), tids_, {}, [&] { return refused; }).status(),
            refused);
  EXPECT_EQ(Worker::Start(kernel_abi::LinuxKernel(), tids_, {.nice = 5}, [&] { return refused; })
                .status(),
            refused);
}

TEST_F(WorkerTest, AWorkerThatIsGoneIsNoLongerDescribed) {
  const absl::StatusOr<Worker> worker = Start();
  ASSERT_TRUE(worker.ok());
  EXPECT_EQ(worker->tid(), last_tid_);
  EndWorkers();
  const WorkerReport report = worker->Report();
  EXPECT_EQ(report.unknown_because, "the thread is gone");
  EXPECT_FALSE(report.cpu_time_ns.has_value());
}

TEST_F(WorkerTest, AWorkerThatCannotBeSeenIsSaidToBeUnknown) {
  const absl::StatusOr<Worker> worker =
      Worker::Start(kernel_abi::LinuxKernel(), tids_, {}, [] { return absl::OkStatus(); });
  ASSERT_TRUE(worker.ok());
  EXPECT_EQ(worker->tid(), 0);
  EXPECT_THAT(worker->Report().unknown_because, HasSubstr("not to be seen in /proc"));
}

TEST(ProcThreadTest, NiceStandsBehindANameOfAnyKind) {
  EXPECT_EQ(internal::NiceFromStat("7 (a) b) (c) S 1 7 7 0 -1 4 0 0 0 0 5 6 0 0 25 -5 9 0"), -5);
  EXPECT_EQ(internal::NiceFromStat("7 (a) S 1"), std::nullopt);
  EXPECT_EQ(internal::NiceFromStat(""), std::nullopt);
  EXPECT_EQ(internal::LastNumber("0.20 0.18 0.12 1/80 11206\n"), 11206);
  EXPECT_EQ(internal::LastNumber("11206\n"), 11206);
  EXPECT_EQ(internal::LastNumber("\n"), 0);
}

TEST(ProcThreadTest, AffinityIsTheKernelsList) {
  EXPECT_EQ(internal::AffinityFromStatus("Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3,8\n"),
            "0-3,8");
  EXPECT_EQ(internal::AffinityFromStatus("Name:\tx\n"), std::nullopt);
}

TEST(ProcThreadTest, CgroupIsThePathOfTheUnifiedHierarchy) {
  EXPECT_EQ(internal::CgroupPath("4:cpu,cpuacct:/old\n0::/machine/vm1\n"), "/machine/vm1");
  EXPECT_EQ(internal::CgroupPath("4:cpu,cpuacct:/vm\n1:name=systemd:/\n"),
            "cpu,cpuacct:/vm name=systemd:/");
  EXPECT_EQ(internal::CgroupPath(""), std::nullopt);
}

TEST(ProcThreadTest, ThisThreadIsAmongThoseOfTheProcess) {
  EXPECT_THAT(ThreadsOfThisProcess(), testing::Contains(::gettid()));
  const std::optional<ThreadFacts> facts = ReadThreadFacts(::gettid());
  ASSERT_TRUE(facts.has_value());
  EXPECT_TRUE(facts->affinity.has_value());
  EXPECT_TRUE(facts->nice.has_value());
  EXPECT_FALSE(ReadThreadFacts(0x7fffffff).has_value());
}

}  // namespace
}  // namespace vhost

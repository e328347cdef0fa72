// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is particular to the net backend of the kernel, on the real /dev/vhost-net: its workers.
// What all net backends promise is in net_contract_test.cc.
#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "tests/integration/net_machine.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

using testing::IsEmpty;

class NetTest : public NetMachineTest {
 protected:
  NetTest() : NetMachineTest(kernel_abi::kVhostNetPath) {}

  std::unique_ptr<NetBackend> MakeNet(int pairs, WorkerPlacement worker = {}) {
    for (int i = 0; i < 2 * pairs; ++i) AddQueue();
    if (tap_ == nullptr) MakeTap(pairs);
    if (HasFatalFailure()) return nullptr;
    auto net = NetBackend::Create(
        kernel_, NetBackendOptions{.tap_fds = tap_->fds(), .worker = std::move(worker)});
    EXPECT_TRUE(net.ok()) << net.status();
    return net.ok() ? *std::move(net) : nullptr;
  }
};

TEST_F(NetTest, EachWorkerIsFoundAndItsTimeGrows) {
  auto first = MakeNet(1);
  ASSERT_NE(first, nullptr);
  std::set<pid_t> tids;
  std::vector<std::unique_ptr<NetBackend>> others;
  for (int i = 0; i < 4; ++i) {
    auto other = NetBackend::Create(kernel_, NetBackendOptions{.tap_fds = tap_->fds()});
    ASSERT_TRUE(other.ok()) << other.status();
    others.push_back(*std::move(other));
    const WorkerReport worker = others.back()->Report().workers[0];
    EXPECT_THAT(worker.unknown_because, IsEmpty());
    EXPECT_THAT(worker.name, testing::StartsWith("vhost-"));
    EXPECT_TRUE(tids.insert(worker.tid).second) << worker.tid << " was found before";
  }
  ASSERT_TRUE(first->Start(AllQueues(kAcked)).ok());
  const WorkerReport before = first->Report().workers[0];
  ASSERT_TRUE(before.cpu_time_ns.has_value()) << before.unknown_because;
  EXPECT_FALSE(tids.contains(before.tid));
  for (int i = 0; i < 200; ++i) {
    Transmit(1, "work");
    ASSERT_TRUE(wire_->Receive(kPatienceMs).has_value());
    while (queues_[1]->ring.TakeUsed().has_value()) continue;
  }
  EXPECT_GT(*first->Report().workers[0].cpu_time_ns, *before.cpu_time_ns);
}

TEST_F(NetTest, AWorkerRunsWhereItWasPlaced) {
  auto net = MakeNet(1, {.cpus = {0}, .nice = 5});
  ASSERT_NE(net, nullptr);
  const WorkerReport worker = net->Report().workers[0];
  EXPECT_THAT(worker.unknown_because, IsEmpty());
  EXPECT_EQ(worker.affinity, "0");
  EXPECT_EQ(worker.nice, 5);
}

TEST_F(NetTest, AWorkerIsAKernelThreadWhereThatIsAsked) {
  for (int i = 0; i < 2; ++i) AddQueue();
  MakeTap(1);
  auto net = NetBackend::Create(
      kernel_, NetBackendOptions{.tap_fds = tap_->fds(),
                                 .worker = {.cpus = {0}, .nice = 3},
                                 .fork_mode = kernel_abi::ForkMode::kKernelThread});
  if (!net.ok() && absl::StrContains(net.status().message(), "needs Linux 6.17")) {
    GTEST_SKIP() << "skipped: " << net.status().message();
  }
  ASSERT_TRUE(net.ok()) << net.status();
  const WorkerReport worker = (*net)->Report().workers[0];
  EXPECT_THAT(worker.unknown_because, IsEmpty());
  EXPECT_EQ(worker.affinity, "0");
  EXPECT_EQ(worker.nice, 3);
  EXPECT_NE(::access(absl::StrCat("/proc/self/task/", worker.tid).c_str(), F_OK), 0);
}

}  // namespace
}  // namespace vhost

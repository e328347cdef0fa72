// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What every net backend promises (vhost/backend.h), on a real TAP: frames pass in both directions
// between rings of this process and the host, through stops, restarts and changes of memory. The
// same cases for the kernel's and for this process's.
#include <gmock/gmock.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "kernel-abi/tun.h"
#include "tests/integration/net_machine.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

class NetContractTest : public NetMachineTest, public testing::WithParamInterface<BackendKind> {
 protected:
  NetContractTest()
      : NetMachineTest(GetParam() == BackendKind::kKernel ? kernel_abi::kVhostNetPath
                                                          : kernel_abi::kTunPath) {}

  std::unique_ptr<Backend> MakeNet(int pairs) {
    for (int i = 0; i < 2 * pairs; ++i) AddQueue();
    if (tap_ == nullptr) MakeTap(pairs);
    if (HasFatalFailure()) return nullptr;
    if (GetParam() == BackendKind::kKernel) {
      return Made(NetBackend::Create(kernel_, NetBackendOptions{.tap_fds = tap_->fds()}));
    }
    return Made(inprocess::InProcessNetBackend::Create(
        kernel_, inprocess::InProcessNetOptions{.tap_fds = tap_->fds()}));
  }

 private:
  template <typename Net>
  static std::unique_ptr<Backend> Made(absl::StatusOr<std::unique_ptr<Net>> net) {
    EXPECT_TRUE(net.ok()) << net.status();
    if (!net.ok()) return nullptr;
    return *std::move(net);
  }
};

TEST_P(NetContractTest, FramesPassBothWays) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  PostReceiveBuffers(0, 64);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (int i = 0; i < 500; ++i) {
    const std::string text = absl::StrCat("frame ", i);
    Transmit(1, text);
    ASSERT_EQ(wire_->Receive(kPatienceMs), text);
    ASSERT_TRUE(WaitUsed(*queues_[1]).has_value());
    ASSERT_TRUE(wire_->Send(text));
    ASSERT_EQ(ReceiveText(0), text);
  }
  const std::vector<StoppedVring> stopped = net->Stop();
  ASSERT_EQ(stopped.size(), 2u);
  EXPECT_EQ(stopped[1].base, 500u);
}

TEST_P(NetContractTest, WhatWasPublishedBeforeTheStartIsServed) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  Transmit(1, "early");
  queues_[1]->kick.Drain();  // The kick went to somebody else.
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  EXPECT_EQ(wire_->Receive(kPatienceMs), "early");
}

TEST_P(NetContractTest, NothingIsLostOrRepeatedThroughStopsAndStarts) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  BackendStart start = AllQueues(kAcked);
  int sent = 0;
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(net->Start(start).ok());
    WaitForRoom(1);
    const int before = sent;
    while (sent < before + 20) Transmit(1, absl::StrCat(sent++));
    // In the middle of it.
    for (const StoppedVring& vring : net->Stop()) {
      start.vrings[static_cast<size_t>(vring.queue)].base = vring.base;
    }
    // While nobody serves, the driver goes on.
    Transmit(1, absl::StrCat(sent++));
    while (queues_[1]->ring.TakeUsed().has_value()) continue;
  }
  ASSERT_TRUE(net->Start(start).ok());
  for (int i = 0; i < sent; ++i) ASSERT_EQ(wire_->Receive(kPatienceMs), absl::StrCat(i));
  EXPECT_EQ(wire_->Receive(50), std::nullopt);
}

TEST_P(NetContractTest, NothingIsWrittenOrSignalledAfterAStop) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  PostReceiveBuffers(0, 64);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  ASSERT_TRUE(wire_->Send("before"));
  ASSERT_EQ(ReceiveText(0), "before");
  net->Stop();
  queues_[0]->call.Drain();
  const uint16_t used = queues_[0]->ring.used_index();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(wire_->Send("after"));
  Transmit(1, "after");
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(queues_[0]->ring.used_index(), used);
  EXPECT_FALSE(queues_[0]->call.IsSignalled());
}

TEST_P(NetContractTest, MemoryIsAddedWhileFramesPass) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  fakes::GuestRam more(1 << 20, 0x1'0000'0000);
  auto larger =
      std::make_shared<const MemoryTable>(*MemoryTable::Create({ram_.region(), more.region()}));
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(net->SetMemory(i % 2 == 0 ? larger : memory_).ok());
    Transmit(1, absl::StrCat(i));
    ASSERT_EQ(wire_->Receive(kPatienceMs), absl::StrCat(i));
    while (queues_[1]->ring.TakeUsed().has_value()) continue;
  }
}

TEST_P(NetContractTest, TwoQueuePairsServe) {
  auto net = MakeNet(2);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  Transmit(1, "pair 0");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "pair 0");
  Transmit(3, "pair 1");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "pair 1");
  ASSERT_TRUE(net->StopVring(3).ok());
  Transmit(1, "pair 0 again");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "pair 0 again");
}

TEST_P(NetContractTest, ABrokenRingShowsOnItsErrorEventfd) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  queues_[1]->ring.PutAvailable(999);  // No such descriptor.
  queues_[1]->kick.Signal();
  EXPECT_TRUE(Wait([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return kernel_abi::EventFd::IsEventFdSignalled(net->error_fd(1));
  }));
}

// kernel facts: with no limit to the send buffer, each of these makes the worker spin.
TEST_P(NetContractTest, AMalformedFrameDoesNotMakeTheWorkerSpin) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  queues_[1]->ring.Chain().Readable("short").Publish();
  std::vector<std::byte> bad(kHeader + 60);
  kernel_abi::VirtioNetHdr header{};
  header.flags = kernel_abi::kNetHdrFNeedsCsum;
  header.csum_start = 5000;
  std::memcpy(bad.data(), &header, sizeof(header));
  queues_[1]->ring.Chain().Readable(bad).Publish();
  queues_[1]->kick.Signal();
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  Transmit(1, "sound");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "sound");
}

TEST_P(NetContractTest, ARefusedStartIsMadeGoodByTheNext) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  BackendStart start = AllQueues(kAcked);
  ASSERT_TRUE(tap_->SetHeaderBytes(10).ok());
  EXPECT_THAT(std::string(net->Start(start).message()),
              testing::HasSubstr("its packet header has 10 bytes"));
  ASSERT_TRUE(tap_->SetHeaderBytes(12).ok());
  EXPECT_TRUE(net->Start(start).ok());
}

TEST_P(NetContractTest, AStartThatFailsHoldsNothingAndCanBeRepeated) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  BackendStart start = AllQueues(kAcked);
  ASSERT_TRUE(net->Start(start).ok());
  EXPECT_EQ(net->Start(start).code(), absl::StatusCode::kFailedPrecondition) << "running";
  EXPECT_EQ(net->Stop().size(), 2u);
  EXPECT_EQ(net->Stop().size(), 0u);
  start.vrings[1].queue = 17;
  EXPECT_FALSE(net->Start(start).ok());
  start.vrings[1].queue = 1;
  EXPECT_TRUE(net->Start(start).ok());
}

TEST_P(NetContractTest, AStartGivesOneCallOnEachVring) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
    for (const auto& queue : queues_) EXPECT_TRUE(queue->call.Drain());
    net->Stop();
  }
}

TEST_P(NetContractTest, CallsGoToTheEventfdThatWasSetLast) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  const auto other = *kernel_abi::EventFd::Create(kernel_);
  queues_[1]->call.Drain();
  ASSERT_TRUE(net->SetCall(1, other.get()).ok());
  Transmit(1, "told elsewhere");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "told elsewhere");
  EXPECT_TRUE(Wait([&] { return other.IsSignalled(); }));
  EXPECT_FALSE(queues_[1]->call.IsSignalled());
  ASSERT_TRUE(net->SetCall(1, -1).ok());
  Transmit(1, "told nobody");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "told nobody");
}

TEST_P(NetContractTest, QueuesStopAndStartOneByOne) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  PostReceiveBuffers(0, 64);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  uint32_t sent = 0;
  for (int round = 0; round < 20; ++round) {
    Transmit(1, absl::StrCat(sent));
    ASSERT_EQ(wire_->Receive(kPatienceMs), absl::StrCat(sent++));
    ASSERT_TRUE(Wait([&] {
      while (queues_[1]->ring.TakeUsed().has_value()) continue;
      return queues_[1]->ring.used_index() == static_cast<uint16_t>(sent);
    }));
    const absl::StatusOr<VringBase> base = net->StopVring(1);
    ASSERT_TRUE(base.ok()) << base.status();
    EXPECT_EQ(*base, sent);
    ASSERT_TRUE(wire_->Send("meanwhile"));
    ASSERT_EQ(ReceiveText(0), "meanwhile");
    ASSERT_TRUE(net->StartVring(Vring(1, *base)).ok());
  }
  EXPECT_FALSE(net->StopVring(2).ok());
}

TEST_P(NetContractTest, ARunningRingIsNotMovedByAChangeOfMemory) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  fakes::GuestRam elsewhere(64 << 20);
  EXPECT_EQ(net->SetMemory(elsewhere.table()).code(), absl::StatusCode::kFailedPrecondition);
  Transmit(1, "as before");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "as before");
}

INSTANTIATE_TEST_SUITE_P(Backends, NetContractTest,
                         testing::Values(BackendKind::kKernel, BackendKind::kInProcess),
                         [](const auto& kind) {
                           return kind.param == BackendKind::kKernel ? "Kernel" : "InProcess";
                         });

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The net backend on the real /dev/vhost-net: frames pass in both directions between rings of this
// process and a TAP, through stops, restarts and changes of memory.
#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "tests/integration/real_machine.h"
#include "tests/integration/wire.h"
#include "vhost/host/link.h"
#include "vhost/host/tap.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kNetMrgRxbuf};
constexpr size_t kHeader = sizeof(kernel_abi::VirtioNetHdr);

class NetTest : public RealMachineTest {
 protected:
  NetTest() : RealMachineTest(kernel_abi::kVhostNetPath) {}

  void MakeTap(int queues, int sndbuf_bytes = kDefaultSndbufBytes) {
    auto tap =
        Tap::Create(kernel_, {.name = "tapvhost", .queues = queues, .sndbuf_bytes = sndbuf_bytes});
    ASSERT_TRUE(tap.ok()) << tap.status();
    tap_ = *std::move(tap);
    auto links = Links::Open();
    ASSERT_TRUE(links.ok()) << links.status();
    ASSERT_TRUE(links->SetUp("tapvhost", true).ok());
    wire_.emplace(links->Get("tapvhost")->index);
    ASSERT_TRUE(wire_->ok());
  }
  std::unique_ptr<NetBackend> MakeNet(int pairs, WorkerPlacement worker = {}) {
    for (int i = 0; i < 2 * pairs; ++i) AddQueue();
    if (tap_ == nullptr) MakeTap(pairs);
    if (HasFatalFailure()) return nullptr;
    auto net = NetBackend::Create(
        kernel_, NetBackendOptions{.tap_fds = tap_->fds(), .worker = std::move(worker)});
    EXPECT_TRUE(net.ok()) << net.status();
    return net.ok() ? *std::move(net) : nullptr;
  }

  void PostReceiveBuffers(int queue, int count) {
    for (int i = 0; i < count; ++i) {
      queues_[static_cast<size_t>(queue)]->ring.Chain().Writable(2048).Publish();
    }
    queues_[static_cast<size_t>(queue)]->kick.Signal();
  }
  void Transmit(int queue, absl::string_view text) {
    std::vector<std::byte> bytes(kHeader);
    const std::vector<std::byte> frame = Wire::Frame(text);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    queues_[static_cast<size_t>(queue)]->ring.Chain().Readable(bytes).Publish();
    queues_[static_cast<size_t>(queue)]->kick.Signal();
  }
  // Until fewer than 100 chains are under way.
  void WaitForRoom(int queue) {
    fakes::DriverRing& ring = queues_[static_cast<size_t>(queue)]->ring;
    EXPECT_TRUE(Wait([&ring] {
      while (ring.TakeUsed().has_value()) continue;
      return static_cast<uint16_t>(ring.available_index() - ring.used_index()) < 100;
    }));
  }
  // The next frame of ours on a receive queue; the host's own chatter is passed over.
  std::string ReceiveText(int queue) {
    for (int i = 0; i < 1000; ++i) {
      const auto used = WaitUsed(*queues_[static_cast<size_t>(queue)]);
      if (!used.has_value()) return "nothing came";
      PostReceiveBuffers(queue, 1);
      if (used->data.size() < kHeader + Wire::kHeaderBytes) continue;
      const std::byte* frame = used->data.data() + kHeader;
      if (frame[12] != std::byte{Wire::kEtherType >> 8} ||
          frame[13] != std::byte{Wire::kEtherType & 0xff}) {
        continue;
      }
      return Wire::Text(frame, used->data.size() - kHeader);
    }
    return "only chatter came";
  }

  std::unique_ptr<Tap> tap_;
  std::optional<Wire> wire_;
};

TEST_F(NetTest, FramesPassBothWays) {
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

TEST_F(NetTest, WhatWasPublishedBeforeTheStartIsServed) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  Transmit(1, "early");
  queues_[1]->kick.Drain();  // The kick went to somebody else.
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  EXPECT_EQ(wire_->Receive(kPatienceMs), "early");
}

TEST_F(NetTest, NothingIsLostOrRepeatedThroughStopsAndStarts) {
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

TEST_F(NetTest, NothingIsWrittenOrSignalledAfterAStop) {
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

TEST_F(NetTest, MemoryIsAddedWhileFramesPass) {
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

TEST_F(NetTest, TwoQueuePairsServe) {
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

// kernel facts: with no limit to the send buffer, each of these makes the worker spin.
TEST_F(NetTest, AMalformedFrameDoesNotMakeTheWorkerSpin) {
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

TEST_F(NetTest, ABrokenRingShowsOnItsErrorEventfd) {
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

TEST_F(NetTest, ARefusedStartIsMadeGoodByTheNext) {
  auto net = MakeNet(1);
  ASSERT_NE(net, nullptr);
  BackendStart start = AllQueues(kAcked);
  ASSERT_TRUE(tap_->SetHeaderBytes(10).ok());
  EXPECT_THAT(net->Start(start).message(), HasSubstr("its packet header has 10 bytes"));
  ASSERT_TRUE(tap_->SetHeaderBytes(12).ok());
  EXPECT_TRUE(net->Start(start).ok());
}

}  // namespace
}  // namespace vhost

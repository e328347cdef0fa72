// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Hostile drivers of the net backend of this process, on real TAPs and by each I/O engine.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "vhost/inprocess/net_backend_fixture.h"

namespace vhost::inprocess {
namespace {

using namespace std::chrono_literals;
using enum VirtioFeature;
using kernel_abi::EventFd;
using testing::HasSubstr;
using testing::SizeIs;

using NetHostileTest = InProcessNetByEngineTest;
INSTANTIATE_TEST_SUITE_P(Engine, NetHostileTest, Engines(), EngineName);

TEST_P(NetHostileTest, FramesThatMakeNoSenseAreDroppedAndCounted) {
  struct Case {
    const char* what;
    kernel_abi::VirtioNetHdr header;
    size_t frame_bytes;
    NetDrop why;
  };
  using namespace kernel_abi;  // NOLINT
  const Case cases[] = {
      {"no frame", {}, 0, NetDrop::kShortFrame},
      {"a frame of 13 bytes", {}, 13, NetDrop::kShortFrame},
      {"a frame of 100 KiB", {}, 100 << 10, NetDrop::kLongFrame},
      {"csum_start beyond", {.flags = 1, .csum_start = 5000}, 60, NetDrop::kBadHeader},
      {"csum_start at the end", {.flags = 1, .csum_start = 59}, 60, NetDrop::kBadHeader},
      {"csum_offset beyond",
       {.flags = 1, .csum_start = 34, .csum_offset = 65535},
       60,
       NetDrop::kBadHeader},
      {"sum of both wraps",
       {.flags = 1, .csum_start = 65535, .csum_offset = 65535},
       60,
       NetDrop::kBadHeader},
      {"csum in Ethernet's header", {.flags = 1, .csum_start = 0}, 60, NetDrop::kBadHeader},
      {"GSO type 2", {.gso_type = 2, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"GSO type 127", {.gso_type = 127, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"ECN alone", {.gso_type = 0x80, .gso_size = 100}, 200, NetDrop::kBadHeader},
      {"GSO of size 0",
       {.flags = 1, .gso_type = 1, .csum_start = 34, .csum_offset = 16},
       200,
       NetDrop::kBadHeader},
      {"hdr_len beyond",
       {.gso_type = 1, .hdr_len = 5000, .gso_size = 100},
       200,
       NetDrop::kBadHeader},
  };
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    const uint64_t before = net->counters(1).dropped(each.why);
    Publish(1, each.header, Bytes(each.frame_bytes));
    Kick(1);
    EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
    ExpectDrops(*net, 1, each.why, before + 1);
    ExpectStillSends();
    EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  }
  // Shorter than its header.
  queues_[1]->ring.Chain().Readable("short").Publish();
  Kick(1);
  EXPECT_TRUE(WaitUsed(*queues_[1]).has_value());
  ExpectStillSends();
  EXPECT_FALSE(EventFd::IsEventFdSignalled(net->error_fd(1)));
}

TEST_P(NetHostileTest, AFrameInMorePiecesThanTheKernelTakesIsSent) {
  auto net = MakeNet(1, {}, 4096);
  ASSERT_NE(net, nullptr);
  for (const VirtioFeatures acked : {kModern, kModern | kAllToHost}) {
    ASSERT_TRUE(net->Start(AllQueues(acked)).ok());
    const FrameSpec spec{.payload = 1400};
    Publish(1, {}, BuildFrame(spec), 1, /*indirect=*/true);
    Kick(1);
    const auto packet = vnet_->Receive(kPatienceMs);
    ASSERT_TRUE(packet.has_value());
    EXPECT_EQ(packet->frame, BuildFrame(spec));
    net->Stop();
    queues_[1]->ring.Forget();
  }
}

TEST_P(NetHostileTest, ReceiveBuffersThatAreNoneOrTooSmallDropAndCount) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kModern)).ok());  // Not mergeable.
  queues_[0]->ring.Chain().Readable("not for writing").Publish();
  PostBuffers(1, 100);
  const FrameSpec large{.payload = 1000};
  ASSERT_TRUE(vnet_->Send({{}, BuildFrame(large)}));
  EXPECT_TRUE(Wait([&] { return net->counters(0).dropped(NetDrop::kSmallBuffers) >= 2; }));
  // The small buffer is good for a small frame.
  const FrameSpec small{.tcp = false, .payload = 10};
  ASSERT_TRUE(vnet_->Send({{}, BuildFrame(small)}));
  std::optional<VnetWire::Packet> packet;
  for (int i = 0; i < 20 && !packet.has_value(); ++i) {
    PostBuffers(1, 100);
    const auto used = WaitUsed(*queues_[0]);
    ASSERT_TRUE(used.has_value());
    if (used->data.size() == kHeader + ShapeOf(small).payload + 10) packet.emplace();
  }
  EXPECT_TRUE(packet.has_value());
}

// A frame that was spread over buffers that are not mergeable would show its middle to the guest as
// the beginning of another one.
TEST_P(NetHostileTest, AFrameIsNotSpreadOverBuffersThatAreNotMergeable) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kModern)).ok());
  const FrameSpec small{.tcp = false, .payload = 10};
  const FrameSpec large{.payload = 1000};
  constexpr int kSmall = 40;
  for (int i = 0; i < kSmall; ++i) {
    if (i == kSmall / 2) {
      ASSERT_TRUE(vnet_->Send({{}, BuildFrame(large)}));
    }
    ASSERT_TRUE(vnet_->Send({{}, BuildFrame(small)}));
  }
  PostBuffers(2 * kSmall, 100);  // All of them are waiting: they come in bursts.
  for (int seen = 0; seen < kSmall;) {
    const auto used = WaitUsed(*queues_[0]);
    ASSERT_TRUE(used.has_value());
    ASSERT_LT(used->data.size(), 100u);  // Also of what the host sends by itself.
    if (used->data.size() == kHeader + ShapeOf(small).payload + 10) ++seen;
  }
  EXPECT_GE(net->counters(0).dropped(NetDrop::kSmallBuffers), 1u);
}

TEST_P(NetHostileTest, ABrokenRingStopsItsQueueAlone) {
  auto net = MakeNet(2);
  ASSERT_NE(net, nullptr);
  ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
  queues_[1]->ring.PutAvailable(999);
  Kick(1);
  EXPECT_TRUE(Wait([&] { return EventFd::IsEventFdSignalled(net->error_fd(1)); }));
  EXPECT_FALSE(EventFd::IsEventFdSignalled(net->error_fd(0)));
  EXPECT_THAT(net->Report().vrings[1].problem, HasSubstr("999"));
  queues_[0]->ring.PutAvailableIndex(30'000);
  Kick(0);
  EXPECT_TRUE(wire_->Send("into a broken ring"));
  EXPECT_TRUE(Wait([&] { return EventFd::IsEventFdSignalled(net->error_fd(0)); }));
  Transmit(3, "the other pair");
  EXPECT_EQ(wire_->Receive(kPatienceMs), "the other pair");
  EXPECT_THAT(net->Stop(), SizeIs(4));
}

// Stops and resets in the middle of everything, with a driver that goes on writing.
TEST_P(NetHostileTest, ResetsInTheMiddleOfTrafficLeaveNothingBehind) {
  auto net = MakeNet();
  ASSERT_NE(net, nullptr);
  std::atomic<bool> done = false;
  std::thread host([&] {
    while (!done) {
      wire_->Send("from the host");
      std::this_thread::sleep_for(20us);
    }
  });
  for (int round = 0; round < 200; ++round) {
    for (const auto& queue : queues_) queue->ring.Forget();
    PostReceiveBuffers(0, 20);
    for (int i = 0; i < 20; ++i) Transmit(1, "from the guest");
    ASSERT_TRUE(net->Start(AllQueues(kAcked)).ok());
    std::this_thread::sleep_for(std::chrono::microseconds(round * 3));
    net->Stop();
    const uint16_t used = queues_[0]->ring.used_index();
    const uint16_t sent = queues_[1]->ring.used_index();
    EXPECT_LE(used, 20);
    EXPECT_LE(sent, 20);
    std::this_thread::yield();
    EXPECT_EQ(queues_[0]->ring.used_index(), used);
    EXPECT_EQ(queues_[1]->ring.used_index(), sent);
  }
  done = true;
  host.join();
}

}  // namespace
}  // namespace vhost::inprocess

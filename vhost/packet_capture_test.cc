// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/packet_capture.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>

namespace vhost {
namespace {

constexpr std::array<std::byte, 4> kHeader = {std::byte{'H'}, std::byte{'E'}, std::byte{'A'},
                                              std::byte{'D'}};

// A packet whose header stands in the first four bytes of its chain, which is in two pieces.
void Offer(PacketCapture& capture, std::string payload) {
  std::string memory = "head" + std::move(payload);
  const std::array<iovec, 2> pieces = {iovec{memory.data(), 3},
                                       iovec{memory.data() + 3, memory.size() - 3}};
  capture.Offer({.queue = 1, .head = 7, .chain_bytes = static_cast<uint32_t>(memory.size())},
                kHeader, pieces, memory.size() - 4);
}

TEST(PacketCaptureTest, IsOffUntilSomebodyReads) {
  PacketCapture capture;
  EXPECT_FALSE(capture.is_on());
  const CaptureBatch first = capture.Read({});
  EXPECT_TRUE(capture.is_on());
  EXPECT_TRUE(first.packets.empty());
  EXPECT_EQ(first.next, 0u);
}

TEST(PacketCaptureTest, KeepsPacketsWithWhereTheyCameFrom) {
  PacketCapture capture;
  uint64_t next = capture.Read({}).next;
  Offer(capture, "one");
  Offer(capture, "two");
  const CaptureBatch batch = capture.Read({.after = next});
  ASSERT_EQ(batch.packets.size(), 2u);
  EXPECT_EQ(batch.packets[0].bytes, "HEADone");  // of the header the copy that was checked
  EXPECT_EQ(batch.packets[0].length, 7u);
  EXPECT_EQ(batch.packets[0].queue, 1);
  EXPECT_EQ(batch.packets[0].head, 7);
  EXPECT_EQ(batch.packets[0].chain_bytes, 7u);
  EXPECT_EQ(batch.packets[0].buffers, 2u);
  EXPECT_GT(batch.packets[0].time_ns, 1'600'000'000'000'000'000);
  EXPECT_EQ(batch.packets[1].bytes, "HEADtwo");
  EXPECT_EQ(batch.next, 2u);
  EXPECT_EQ(batch.dropped, 0u);
  EXPECT_TRUE(capture.Read({.after = batch.next}).packets.empty());
  // Another reader has its own place.
  EXPECT_EQ(capture.Read({.after = 1}).packets.size(), 1u);
}

TEST(PacketCaptureTest, SnaplenIsEachReadersOwn) {
  PacketCapture capture;
  capture.Read({.snaplen = 6});
  Offer(capture, "payload");
  EXPECT_EQ(capture.Read({.after = 0, .snaplen = 5}).packets.at(0).bytes, "HEADp");
  const CapturedPacket packet = capture.Read({.after = 0}).packets.at(0);
  EXPECT_EQ(packet.bytes, "HEADpa");
  EXPECT_EQ(packet.length, 11u);
  Offer(capture, "payload");
  EXPECT_EQ(capture.Read({.after = 1}).packets.at(0).bytes, "HEADpayload");
}

TEST(PacketCaptureTest, APayloadBeyondItsChainIsCut) {
  PacketCapture capture;
  capture.Read({});
  std::string memory = "headab";
  const iovec piece = {memory.data(), memory.size()};
  capture.Offer({.queue = 1, .head = 0, .chain_bytes = 6}, kHeader, {&piece, 1}, 1'000'000'000);
  capture.Offer({.queue = 1, .head = 0, .chain_bytes = 0}, kHeader, {}, 1'000'000'000);
  const CaptureBatch batch = capture.Read({.after = 0});
  ASSERT_EQ(batch.packets.size(), 2u);
  EXPECT_EQ(batch.packets[0].bytes, "HEADab");
  EXPECT_EQ(batch.packets[0].length, 6u);
  EXPECT_EQ(batch.packets[1].bytes, "HEAD");
}

TEST(PacketCaptureTest, TheOldestGoFirstAndAreCounted) {
  PacketCapture capture;
  capture.Read({});
  for (size_t i = 0; i < PacketCapture::kMostPackets + 10; ++i) Offer(capture, "x");
  CaptureBatch batch = capture.Read({.after = 0});
  EXPECT_EQ(batch.dropped, 10u);
  EXPECT_EQ(batch.packets.size(), PacketCapture::kMostPackets);
  EXPECT_EQ(batch.next, PacketCapture::kMostPackets + 10);
  // By bytes: a megabyte each, four of them.
  for (int i = 0; i < 6; ++i) Offer(capture, std::string((1 << 20) - 4, 'x'));
  batch = capture.Read({.after = batch.next, .most_bytes = 100 << 20});
  EXPECT_EQ(batch.packets.size(), 4u);
  EXPECT_EQ(batch.dropped, 2u);
}

TEST(PacketCaptureTest, ABatchIsBounded) {
  PacketCapture capture;
  capture.Read({});
  for (int i = 0; i < 3; ++i) Offer(capture, "0123456789");
  CaptureBatch batch = capture.Read({.after = 0, .most_bytes = 28});
  EXPECT_EQ(batch.packets.size(), 2u);
  EXPECT_TRUE(batch.more);
  batch = capture.Read({.after = batch.next, .most_bytes = 1});
  EXPECT_EQ(batch.packets.size(), 1u);  // longer than that, and alone
  EXPECT_FALSE(batch.more);
}

TEST(PacketCaptureTest, TurnsItselfOffWhenNobodyReads) {
  PacketCapture capture(std::chrono::nanoseconds(0));
  capture.Read({});
  EXPECT_TRUE(capture.is_on());
  Offer(capture, "late");
  EXPECT_FALSE(capture.is_on());
  EXPECT_TRUE(capture.Read({.after = 0}).packets.empty());
}

TEST(PacketCaptureTest, AReaderBesideTheDataPathMissesNothingUncounted) {
  constexpr uint64_t kPackets = 20'000;
  PacketCapture capture;
  uint64_t next = capture.Read({}).next;
  std::jthread data_path([&] {
    for (uint64_t i = 0; i < kPackets; ++i) Offer(capture, "x");
  });
  uint64_t seen = 0;
  while (next < kPackets) {
    const CaptureBatch batch = capture.Read({.after = next});
    for (const CapturedPacket& packet : batch.packets) EXPECT_EQ(packet.bytes, "HEADx");
    seen += batch.packets.size() + batch.dropped;
    next = batch.next;
  }
  EXPECT_EQ(seen, next);
}

}  // namespace
}  // namespace vhost

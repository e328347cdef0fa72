// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/capture/pcapng.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "kernel-abi/packet_socket.h"
#include "kernel-abi/virtio.h"
#include "src/vhostctl/capture/source.h"

namespace vhost::ctl {
namespace {

std::string Bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text.push_back(static_cast<char>(value));
  return text;
}

TEST(PcapngTest, ASectionSaysWhoWroteIt) {
  EXPECT_EQ(PcapngSection("OS", "vhostctl"),
            Bytes({0x0a, 0x0d, 0x0d, 0x0a, 52, 0, 0, 0}) +                // type, length
                Bytes({0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0}) +             // order, version 1.0
                Bytes({255, 255, 255, 255, 255, 255, 255, 255}) +         // length unknown
                Bytes({3, 0, 2, 0, 'O', 'S', 0, 0}) +                     // shb_os, padded
                Bytes({4, 0, 8, 0}) + "vhostctl" + Bytes({0, 0, 0, 0}) +  // shb_userappl, end
                Bytes({52, 0, 0, 0}));
}

TEST(PcapngTest, AnInterfaceCountsInNanoseconds) {
  EXPECT_EQ(PcapngInterfaceBlock({.name = "tap0", .link_type = kLinkTypeVsock, .snaplen = 96}),
            Bytes({1, 0, 0, 0, 40, 0, 0, 0}) + Bytes({15, 1, 0, 0, 96, 0, 0, 0}) +
                Bytes({2, 0, 4, 0}) + "tap0" +     // if_name
                Bytes({9, 0, 1, 0, 9, 0, 0, 0}) +  // if_tsresol: 10^-9
                Bytes({0, 0, 0, 0, 40, 0, 0, 0}));
}

TEST(PcapngTest, APacketHasItsTimeItsQueueAndItsChain) {
  EXPECT_EQ(PcapngPacketBlock({.interface = 1,
                               .time_ns = 0x0102030405060708,
                               .length = 60,
                               .bytes = "abcde",
                               .to_guest = true,
                               .queue = 2,
                               .dropped = 7,
                               .comment = "chain"}),
            Bytes({6, 0, 0, 0, 84, 0, 0, 0}) + Bytes({1, 0, 0, 0}) +
                Bytes({4, 3, 2, 1, 8, 7, 6, 5}) +   // the high half first
                Bytes({5, 0, 0, 0, 60, 0, 0, 0}) +  // kept, whole
                "abcde" + Bytes({0, 0, 0}) +        // padded
                Bytes({1, 0, 5, 0}) + "chain" + Bytes({0, 0, 0}) +
                Bytes({2, 0, 4, 0, 2, 0, 0, 0}) +              // epb_flags: outbound
                Bytes({4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0}) +  // epb_dropcount
                Bytes({6, 0, 4, 0, 2, 0, 0, 0}) +              // epb_queue
                Bytes({0, 0, 0, 0, 84, 0, 0, 0}));
}

TEST(PcapngTest, AtTheEndStandsWhatWasLost) {
  const std::string block = PcapngStatisticsBlock(
      {.interface = 0, .start_ns = 1, .end_ns = 2, .received = 9, .dropped = 3});
  EXPECT_EQ(block.size() % 4, 0u);
  EXPECT_EQ(block.substr(0, 20),
            Bytes({5, 0, 0, 0, 76, 0, 0, 0, 0, 0, 0, 0}) + Bytes({0, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_NE(block.find(Bytes({4, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0})), std::string::npos);
  EXPECT_NE(block.find(Bytes({5, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0})), std::string::npos);
}

TEST(VsockmonTest, AFrameTellsOfThePacketInIt) {
  kernel_abi::VirtioVsockHdr packet{};
  packet.src_cid = 42;
  packet.dst_cid = 2;
  packet.src_port = 1000;
  packet.dst_port = 52;
  packet.len = 3;
  packet.op = kernel_abi::kVsockOpRw;
  const std::string raw =
      std::string(reinterpret_cast<const char*>(&packet), sizeof(packet)) + "abc";
  const std::string frame = VsockmonFrame(raw);
  ASSERT_EQ(frame.size(), 32u + raw.size());
  EXPECT_EQ(frame.substr(32), raw);
  kernel_abi::VsockmonHdr header;
  memcpy(&header, frame.data(), sizeof(header));
  EXPECT_EQ(header.src_cid, 42u);
  EXPECT_EQ(header.dst_cid, 2u);
  EXPECT_EQ(header.src_port, 1000u);
  EXPECT_EQ(header.dst_port, 52u);
  EXPECT_EQ(header.op, kernel_abi::kVsockmonOpPayload);
  EXPECT_EQ(header.transport, kernel_abi::kVsockmonTransportVirtio);
  EXPECT_EQ(header.transport_header_bytes, 44u);
  EXPECT_EQ(VsockmonFrame("cut"), "cut");
}

}  // namespace
}  // namespace vhost::ctl

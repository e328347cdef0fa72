// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Merging, cutting, and that the one undoes the other byte by byte.
#include "vhost/inprocess/flow_merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <random>

#include "vhost/inprocess/net_frames_fixture.h"
#include "vhost/inprocess/segment_cut.h"

namespace vhost::inprocess {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr FlowMerge::Kinds kAll = {.tcp4 = true, .tcp6 = true, .udp4 = true, .udp6 = true};

struct Packet {
  kernel_abi::VirtioNetHdr header;
  Bytes frame;
};

// A burst through FlowMerge, and what its writes are.
class Burst {
 public:
  explicit Burst(FlowMerge::Kinds kinds = kAll) : merge_(kinds) { merge_.Begin(); }

  size_t Add(const FrameSpec& spec, size_t piece_bytes = 4096) {
    return Add({HeaderOf(spec), BuildFrame(spec)}, piece_bytes);
  }
  size_t Add(Packet packet, size_t piece_bytes = 4096) {
    packets_.push_back(std::move(packet));
    Packet& mine = packets_.back();
    pieces_.push_back(PiecesOf(mine.frame, piece_bytes));
    const FlowMerge::Added added = merge_.Add({mine.header, pieces_.back(), mine.frame.size()});
    if (!added.merged) frames_of_.emplace_back();
    frames_of_[added.write].push_back(packets_.size() - 1);
    return added.write;
  }
  // Frames of each write.
  std::vector<std::vector<size_t>> Writes() const { return frames_of_; }
  // What the TAP would be given.
  std::vector<Packet> Written() {
    EXPECT_EQ(merge_.writes(), frames_of_.size());
    std::vector<Packet> written;
    for (size_t write = 0; write < frames_of_.size(); ++write) {
      const std::vector<size_t>& frames = frames_of_[write];
      if (frames.size() == 1) {
        written.push_back(packets_[frames[0]]);
        continue;
      }
      const FlowMerge::Headers headers = merge_.HeadersOf(write);
      Packet packet{headers.header, Bytes(headers.bytes.begin(), headers.bytes.end())};
      for (const size_t frame : frames) {
        const Bytes& bytes = packets_[frame].frame;
        packet.frame.insert(packet.frame.end(),
                            bytes.begin() + static_cast<ptrdiff_t>(headers.bytes.size()),
                            bytes.end());
      }
      written.push_back(std::move(packet));
    }
    return written;
  }
  const std::deque<Packet>& packets() const { return packets_; }

 private:
  FlowMerge merge_;
  std::deque<Packet> packets_;
  std::deque<std::vector<iovec>> pieces_;
  std::vector<std::vector<size_t>> frames_of_;
};

Bytes Finished(Packet packet) {
  if ((packet.header.flags & kernel_abi::kNetHdrFNeedsCsum) != 0) {
    EXPECT_TRUE(FinishChecksum(packet.header, packet.frame));
  }
  return packet.frame;
}

// The frames that a receiver without offloads gets.
std::vector<Bytes> Cut(const Packet& packet, bool finish) {
  if (packet.header.gso_type == kernel_abi::kNetHdrGsoNone) return {Finished(packet)};
  const auto cut = SegmentCut::Parse(packet.header, packet.frame, finish);
  EXPECT_TRUE(cut.has_value());
  std::vector<Bytes> frames;
  for (size_t i = 0; cut.has_value() && i < cut->count(); ++i) {
    SegmentCut::Segment segment;
    cut->Make(i, segment);
    Packet made{segment.header,
                Bytes(segment.head.data(), segment.head.data() + segment.head_bytes)};
    made.frame.insert(made.frame.end(), segment.payload.begin(), segment.payload.end());
    frames.push_back(Finished(std::move(made)));
  }
  return frames;
}

FrameSpec Next(FrameSpec spec) {
  spec.sequence += static_cast<uint32_t>(spec.payload);
  ++spec.id;
  spec.fill = static_cast<uint8_t>(spec.fill + 13);
  return spec;
}

TEST(FlowMerge, SegmentsThatFollowBecomeOneWrite) {
  for (const bool tcp : {true, false}) {
    for (const bool ipv6 : {true, false}) {
      for (const bool partial : {true, false}) {
        Burst burst;
        FrameSpec spec{.tcp = tcp, .ipv6 = ipv6, .partial = partial};
        for (int i = 0; i < 5; ++i, spec = Next(spec)) burst.Add(spec);
        EXPECT_THAT(burst.Writes(), ElementsAre(ElementsAre(0, 1, 2, 3, 4)));
        const Packet written = burst.Written()[0];
        EXPECT_EQ(written.header.gso_size, 100);
        EXPECT_EQ(written.header.hdr_len, ShapeOf(spec).payload);
        EXPECT_EQ(written.frame.size(), ShapeOf(spec).payload + 500u);
      }
    }
  }
}

TEST(FlowMerge, TheLastMayBeShorterAndEndsIt) {
  Burst burst;
  FrameSpec spec;
  burst.Add(spec);
  spec = Next(spec);
  spec.payload = 99;
  burst.Add(spec);
  burst.Add(Next(spec));
  EXPECT_THAT(burst.Writes(), ElementsAre(ElementsAre(0, 1), ElementsAre(2)));
}

TEST(FlowMerge, PshEndsItAndIsKept) {
  Burst burst;
  FrameSpec spec;
  burst.Add(spec);
  spec = Next(spec);
  spec.flags |= kTcpPsh;
  burst.Add(spec);
  spec = Next(spec);
  spec.flags = kTcpAck;
  burst.Add(spec);
  burst.Add(Next(spec));
  EXPECT_THAT(burst.Writes(), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  const std::vector<Packet> written = burst.Written();
  const size_t flags = ShapeOf(spec).l4 + kTcpFlags;
  EXPECT_EQ(written[0].frame[flags], std::byte{kTcpAck | kTcpPsh});
  EXPECT_EQ(written[1].frame[flags], std::byte{kTcpAck});
}

// Each change to the second frame keeps it from being merged.
TEST(FlowMerge, WhatDiffersIsNotMerged) {
  const std::vector<std::pair<const char*, std::function<void(FrameSpec&)>>> changes = {
      {"sequence", [](FrameSpec& spec) { ++spec.sequence; }},
      {"acknowledgement", [](FrameSpec& spec) { ++spec.acknowledgement; }},
      {"window", [](FrameSpec& spec) { ++spec.window; }},
      {"SYN", [](FrameSpec& spec) { spec.flags |= 2; }},
      {"FIN", [](FrameSpec& spec) { spec.flags |= 1; }},
      {"RST", [](FrameSpec& spec) { spec.flags |= 4; }},
      {"URG", [](FrameSpec& spec) { spec.flags |= 32; }},
      {"ECE", [](FrameSpec& spec) { spec.flags |= 64; }},
      {"CWR", [](FrameSpec& spec) { spec.flags |= 128; }},
      {"no ACK", [](FrameSpec& spec) { spec.flags = 0; }},
      {"urgent pointer", [](FrameSpec& spec) { spec.urgent = 1; }},
      {"options", [](FrameSpec& spec) { spec.options = Bytes(4, std::byte{1}); }},
      {"longer", [](FrameSpec& spec) { ++spec.payload; }},
      {"empty", [](FrameSpec& spec) { spec.payload = 0; }},
      {"IPv4 id", [](FrameSpec& spec) { ++spec.id; }},
      {"TOS", [](FrameSpec& spec) { spec.tos = 2; }},
      {"TTL", [](FrameSpec& spec) { --spec.ttl; }},
      {"DF", [](FrameSpec& spec) { spec.dont_fragment = false; }},
      {"MAC", [](FrameSpec& spec) { ++spec.mac; }},
      {"VLAN", [](FrameSpec& spec) { spec.vlan = true; }},
      {"address", [](FrameSpec& spec) { ++spec.address; }},
      {"source port", [](FrameSpec& spec) { ++spec.source_port; }},
      {"destination port", [](FrameSpec& spec) { ++spec.destination_port; }},
      {"protocol", [](FrameSpec& spec) { spec.tcp = false; }},
      {"version", [](FrameSpec& spec) { spec.ipv6 = true; }},
  };
  for (const auto& [what, change] : changes) {
    Burst burst;
    const FrameSpec first;
    FrameSpec second = Next(first);
    change(second);
    burst.Add(first);
    burst.Add(second);
    EXPECT_THAT(burst.Writes(), SizeIs(2)) << what;
  }
}

// Each change to the bytes of the second frame does, too.
TEST(FlowMerge, WhatIsNotSoundIsNotMerged) {
  for (const bool partial : {false, true}) {
    const FrameSpec first{.partial = partial};
    const FrameSpec second = Next(first);
    const PacketShape shape = ShapeOf(second);
    const std::vector<std::pair<const char*, std::function<void(Packet&)>>> changes = {
        {"TCP checksum", [&](Packet& p) { p.frame[shape.l4 + kTcpChecksum] ^= std::byte{1}; }},
        {"IP checksum", [&](Packet& p) { p.frame[shape.l3 + kIpv4Checksum] ^= std::byte{1}; }},
        {"padding", [](Packet& p) { p.frame.resize(p.frame.size() + 6); }},
        {"cut short", [](Packet& p) { p.frame.resize(p.frame.size() - 1); }},
        {"IP options", [&](Packet& p) { p.frame[shape.l3] = std::byte{0x46}; }},
        {"a fragment", [&](Packet& p) { p.frame[shape.l3 + kIpv4Fragment] = std::byte{0x20}; }},
        {"TCP header too long",
         [&](Packet& p) { p.frame[shape.l4 + kTcpDataOffset] = std::byte{0xf0}; }},
        {"TCP header too short",
         [&](Packet& p) { p.frame[shape.l4 + kTcpDataOffset] = std::byte{0x40}; }},
        {"GSO", [](Packet& p) { p.header.gso_type = kernel_abi::kNetHdrGsoTcpV4; }},
        {"checksum elsewhere",
         [](Packet& p) {
           p.header.flags = kernel_abi::kNetHdrFNeedsCsum;
           p.header.csum_start = 20;
         }},
    };
    for (const auto& [what, change] : changes) {
      for (const bool change_first : {false, true}) {
        Burst burst;
        Packet one{HeaderOf(first), BuildFrame(first)};
        Packet two{HeaderOf(second), BuildFrame(second)};
        change(change_first ? one : two);
        burst.Add(one);
        burst.Add(two);
        EXPECT_THAT(burst.Writes(), SizeIs(2)) << what << (change_first ? ", first" : "");
      }
    }
  }
}

TEST(FlowMerge, AUdpDatagramWithoutChecksumIsNotMerged) {
  Burst burst;
  FrameSpec spec{.tcp = false};
  for (int i = 0; i < 2; ++i, spec = Next(spec)) {
    Packet packet{HeaderOf(spec), BuildFrame(spec)};
    Store16(packet.frame.data() + ShapeOf(spec).l4 + kUdpChecksum, 0);
    burst.Add(packet);
  }
  EXPECT_THAT(burst.Writes(), SizeIs(2));
}

TEST(FlowMerge, FlowsMayOvertakeEachOtherButTheirFramesStayInOrder) {
  Burst burst;
  FrameSpec a{.source_port = 1};
  FrameSpec b{.source_port = 2};
  burst.Add(a);
  burst.Add(b);
  burst.Add(a = Next(a));
  burst.Add(b = Next(b));
  FrameSpec ack = Next(a);  // of a, and ends what was put together
  ack.payload = 0;
  burst.Add(ack);
  burst.Add(a = Next(a));
  burst.Add(b = Next(b));
  EXPECT_THAT(burst.Writes(),
              ElementsAre(ElementsAre(0, 2), ElementsAre(1, 3, 6), ElementsAre(4), ElementsAre(5)));
}

TEST(FlowMerge, NothingOvertakesWhatIsUnknown) {
  Burst burst;
  FrameSpec spec;
  burst.Add(spec);
  burst.Add({.header = {}, .frame = Bytes(60)});
  burst.Add(Next(spec));
  EXPECT_THAT(burst.Writes(), SizeIs(3));
}

TEST(FlowMerge, OneFlowTooManyEndsTheOldest) {
  Burst burst;
  for (uint16_t flow = 0; flow <= FlowMerge::kMaxFlows; ++flow) {
    burst.Add(FrameSpec{.source_port = flow});
  }
  burst.Add(Next({.source_port = 0}));
  // That opened a new one, for which flow 1 went.
  burst.Add(Next({.source_port = 2}));
  EXPECT_THAT(burst.Writes(), SizeIs(FlowMerge::kMaxFlows + 2));
  EXPECT_THAT(burst.Writes()[2], ElementsAre(2, FlowMerge::kMaxFlows + 2));
}

TEST(FlowMerge, StaysWithin64KibAnd64SegmentsAndKindsThatAreWanted) {
  {
    Burst burst;
    FrameSpec spec{.payload = 1448};
    for (int i = 0; i < 64; ++i, spec = Next(spec)) burst.Add(spec);
    EXPECT_THAT(burst.Writes(), ElementsAre(SizeIs(45), SizeIs(19)));
  }
  {
    Burst burst({.tcp4 = true});
    FrameSpec spec{.ipv6 = true};
    burst.Add(spec);
    burst.Add(Next(spec));
    EXPECT_THAT(burst.Writes(), SizeIs(2));
  }
}

TEST(FlowMerge, PiecesAreLimited) {
  Burst burst;
  FrameSpec spec{.payload = 1000};
  for (int i = 0; i < 3; ++i, spec = Next(spec)) burst.Add(spec, /*piece_bytes=*/5);
  EXPECT_THAT(burst.Writes(), ElementsAre(ElementsAre(0, 1), ElementsAre(2)));
}

// What a receiver gets is what was sent, whatever was sent: each frame once, byte by byte, those of
// a flow in order.
TEST(FlowMergeProperty, CuttingUndoesMerging) {
  std::mt19937 random(20);
  const auto one_in = [&random](uint32_t n) { return random() % n == 0; };
  size_t merged = 0;
  for (int round = 0; round < 3000; ++round) {
    FlowMerge::Kinds kinds = kAll;
    if (one_in(8)) kinds = {.tcp4 = one_in(2), .tcp6 = one_in(2), .udp4 = one_in(2)};
    Burst burst(kinds);
    std::vector<FrameSpec> flows(1 + random() % 12);
    for (size_t i = 0; i < flows.size(); ++i) {
      flows[i] = {.tcp = !one_in(3),
                  .ipv6 = one_in(3),
                  .vlan = one_in(4),
                  .source_port = static_cast<uint16_t>(i),
                  .sequence = static_cast<uint32_t>(random()),
                  .options = Bytes(4 * (random() % 4), std::byte{1}),
                  .id = static_cast<uint16_t>(random()),
                  .payload = 1 + random() % 1400,
                  .partial = one_in(2)};
    }
    const size_t count = 1 + random() % FlowMerge::kMaxBurst;
    for (size_t i = 0; i < count; ++i) {
      FrameSpec& flow = flows[random() % flows.size()];
      FrameSpec spec = flow;
      if (one_in(6)) spec.flags |= kTcpPsh;
      if (one_in(20)) spec.flags |= 1;
      if (one_in(20)) spec.payload = random() % (spec.payload + 2);
      Packet packet{HeaderOf(spec), BuildFrame(spec)};
      if (one_in(20)) packet.frame[random() % packet.frame.size()] ^= std::byte{1};
      burst.Add(packet, one_in(3) ? 1 + random() % 200 : 4096);
      flow = Next(spec);
      flow.flags = kTcpAck;
      if (one_in(30)) flow.sequence += 1;
      if (flow.payload == 0) flow.payload = 500;
    }
    const std::vector<std::vector<size_t>> writes = burst.Writes();
    const std::vector<Packet> written = burst.Written();
    std::vector<bool> seen(count);
    for (size_t write = 0; write < writes.size(); ++write) {
      merged += writes[write].size() - 1;
      const std::vector<Bytes> frames = Cut(written[write], one_in(2));
      ASSERT_EQ(frames.size(), writes[write].size());
      for (size_t i = 0; i < frames.size(); ++i) {
        const size_t index = writes[write][i];
        ASSERT_FALSE(seen[index]);
        seen[index] = true;
        ASSERT_EQ(frames[i], Finished(burst.packets()[index])) << round << ": " << index;
      }
    }
    ASSERT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<ptrdiff_t>(count));
  }
  EXPECT_GT(merged, 10'000u) << "or it shows nothing";
}

TEST(SegmentCut, RefusesWhatItsTypeDoesNotSay) {
  FrameSpec spec{.payload = 3000, .partial = true};
  const Packet sound{{.flags = 1, .gso_type = kernel_abi::kNetHdrGsoTcpV4, .gso_size = 1000},
                     BuildFrame(spec)};
  ASSERT_TRUE(SegmentCut::Parse(sound.header, sound.frame, true).has_value());
  EXPECT_EQ(SegmentCut::Parse(sound.header, sound.frame, true)->count(), 3u);
  for (const uint8_t type : {0, 2, 3, 4, 5, 6, 0x85}) {
    kernel_abi::VirtioNetHdr header = sound.header;
    header.gso_type = type;
    EXPECT_FALSE(SegmentCut::Parse(header, sound.frame, true).has_value()) << int{type};
  }
  kernel_abi::VirtioNetHdr header = sound.header;
  header.gso_size = 0;
  EXPECT_FALSE(SegmentCut::Parse(header, sound.frame, true).has_value());
  for (size_t bytes = 0; bytes <= ShapeOf(spec).payload; ++bytes) {
    EXPECT_FALSE(
        SegmentCut::Parse(sound.header, std::span(sound.frame).first(bytes), true).has_value());
  }
}

TEST(SegmentCut, KeepsIpv4OptionsAndIpv6Extensions) {
  // Eight bytes of hop-by-hop options between IPv6 and UDP.
  FrameSpec spec{.tcp = false, .ipv6 = true, .payload = 2500, .partial = true};
  Bytes frame = BuildFrame(spec);
  const size_t l4 = ShapeOf(spec).l4;
  Bytes extension(8);
  extension[0] = std::byte{kProtocolUdp};
  frame.insert(frame.begin() + static_cast<ptrdiff_t>(l4), extension.begin(), extension.end());
  frame[ShapeOf(spec).l3 + kIpv6NextHeader] = std::byte{0};
  const auto cut = SegmentCut::Parse(
      {.flags = 1, .gso_type = kernel_abi::kNetHdrGsoUdpL4, .gso_size = 1000}, frame, true);
  ASSERT_TRUE(cut.has_value());
  ASSERT_EQ(cut->count(), 3u);
  SegmentCut::Segment segment;
  cut->Make(2, segment);
  EXPECT_EQ(segment.payload.size(), 500u);
  EXPECT_EQ(segment.head_bytes, l4 + 8 + kUdpBytes);
  EXPECT_EQ(Load16(segment.head.data() + ShapeOf(spec).l3 + kIpv6Length), 8 + 8 + 500);
  EXPECT_EQ(Load16(segment.head.data() + l4 + 8 + kUdpLength), 8 + 500);
  EXPECT_EQ(segment.header.flags, 0);
}

}  // namespace
}  // namespace vhost::inprocess

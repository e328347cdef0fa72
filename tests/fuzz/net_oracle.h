// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What must be true of frames that were merged, cut or finished, told from the frames alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/flow_merge.h"
#include "vhost/inprocess/internet_checksum.h"
#include "vhost/inprocess/net_header.h"
#include "vhost/inprocess/segment_cut.h"

namespace fuzz {

using kernel_abi::VirtioNetHdr;
using vhost::inprocess::FinishChecksum;
using vhost::inprocess::PacketShape;
using vhost::inprocess::SegmentCut;
using Bytes = std::vector<std::byte>;

inline void Require(bool promise) {
  if (!promise) std::abort();
}

struct NetFrame {
  VirtioNetHdr header{};
  Bytes bytes;
};

inline bool Same(const VirtioNetHdr& a, const VirtioNetHdr& b) {
  return std::memcmp(&a, &b, kernel_abi::kNetHdrSizeLegacy) == 0;
}
inline bool IsPartial(const VirtioNetHdr& header) {
  return (header.flags & kernel_abi::kNetHdrFNeedsCsum) != 0;
}

// The frame with its checksum in place.
inline Bytes Finished(const NetFrame& frame) {
  Bytes bytes = frame.bytes;
  if (IsPartial(frame.header)) Require(FinishChecksum(frame.header, bytes));
  return bytes;
}

// A checksum that was made is right, and the lengths in the headers are those of the frame.
inline void CheckMade(const NetFrame& frame, const SegmentCut::Segment& segment) {
  using namespace vhost::inprocess;  // NOLINT: what is tested
  const std::optional<PacketShape> shape = ParsePacket(frame.bytes, frame.bytes.size());
  if (!shape.has_value()) return;  // With options or extensions.
  Require(shape->payload == segment.head_bytes);
  const size_t l4_bytes = frame.bytes.size() - shape->l4;
  const uint64_t pseudo = PseudoHeaderSum(frame.bytes.data(), *shape, l4_bytes);
  if (IsPartial(frame.header)) {
    uint16_t field;
    std::memcpy(&field, frame.bytes.data() + shape->l4 + shape->checksum_offset(), sizeof(field));
    Require(field == FoldSum(pseudo));
  } else {
    const uint64_t sum = AddSums(pseudo, SumOf(frame.bytes.data() + shape->l4, l4_bytes));
    Require(FoldSum(sum) == 0xffff);
  }
}

// The segments of a GSO frame, after all that can be known of them was checked; none if it is not
// to be cut.
inline std::vector<NetFrame> CutAndCheck(const VirtioNetHdr& header, const Bytes& frame,
                                         bool finish) {
  std::vector<NetFrame> segments;
  const std::optional<SegmentCut> cut = SegmentCut::Parse(header, frame, finish);
  if (!cut.has_value()) return segments;
  Require(cut->count() >= 1 && cut->count() <= frame.size());
  Bytes payload;
  size_t head_bytes = 0;
  for (size_t i = 0; i < cut->count(); ++i) {
    SegmentCut::Segment segment;
    cut->Make(i, segment);
    Require(segment.head_bytes <= std::min(frame.size(), SegmentCut::kMaxHeaderBytes));
    Require(i == 0 || segment.head_bytes == head_bytes);
    head_bytes = segment.head_bytes;
    Require(!segment.payload.empty() && segment.payload.size() <= header.gso_size);
    Require(i + 1 == cut->count() || segment.payload.size() == header.gso_size);
    // Ethernet's header is never changed.
    Require(std::equal(frame.begin(), frame.begin() + 14, segment.head.begin()));
    NetFrame made{segment.header,
                  Bytes(segment.head.data(), segment.head.data() + segment.head_bytes)};
    made.bytes.insert(made.bytes.end(), segment.payload.begin(), segment.payload.end());
    Require(made.header.gso_type == kernel_abi::kNetHdrGsoNone && IsPartial(made.header) != finish);
    VirtioNetHdr again = made.header;
    Require(vhost::inprocess::CheckNetHeader(again, made.bytes.size()));
    Require(Same(again, made.header));
    CheckMade(made, segment);
    payload.insert(payload.end(), segment.payload.begin(), segment.payload.end());
    segments.push_back(std::move(made));
  }
  Require(payload.size() == frame.size() - head_bytes);
  Require(std::equal(payload.begin(), payload.end(),
                     frame.begin() + static_cast<ptrdiff_t>(head_bytes)));
  return segments;
}

// Holds what goes out against what was to be sent: each frame once, byte by byte, alone or cut out
// of a larger one; those of a flow in order, and those of no known flow in their places.
class WireOracle {
 public:
  void Expect(NetFrame frame) {
    Expected expected{.frame = std::move(frame), .finished = {}, .flow = {}};
    expected.finished = Finished(expected.frame);
    expected.flow = FlowOf(expected.frame.bytes);
    expected_.push_back(std::move(expected));
  }

  void Sent(VirtioNetHdr header, const Bytes& frame) {
    Require(vhost::inprocess::CheckNetHeader(header, frame.size()));
    for (Expected& each : expected_) {
      if (each.sent || !Same(each.frame.header, header) || each.frame.bytes != frame) continue;
      return Take(each);
    }
    // So it was merged.
    Require(IsPartial(header));
    const std::vector<NetFrame> segments = CutAndCheck(header, frame, /*finish=*/true);
    Require(segments.size() > 1);
    for (const NetFrame& segment : segments) {
      const auto found =
          std::find_if(expected_.begin(), expected_.end(), [&](const Expected& each) {
            return !each.sent && each.frame.header.gso_type == kernel_abi::kNetHdrGsoNone &&
                   each.finished == segment.bytes;
          });
      Require(found != expected_.end());
      Take(*found);
    }
  }

  // How many were to be sent and were not.
  size_t missing() const {
    return static_cast<size_t>(std::count_if(expected_.begin(), expected_.end(),
                                             [](const Expected& each) { return !each.sent; }));
  }

 private:
  struct Expected {
    NetFrame frame;
    Bytes finished;
    std::optional<Bytes> flow;  // protocol, addresses and ports
    bool sent = false;
  };

  static std::optional<Bytes> FlowOf(const Bytes& frame) {
    const std::optional<PacketShape> shape = vhost::inprocess::ParsePacket(frame, frame.size());
    if (!shape.has_value()) return std::nullopt;
    Bytes flow{std::byte{shape->is_tcp}, std::byte{shape->is_ipv6}};
    const size_t source = shape->l3 + (shape->is_ipv6 ? vhost::inprocess::kIpv6Source
                                                      : vhost::inprocess::kIpv4Source);
    const std::byte* at = frame.data();
    flow.insert(flow.end(), at + source, at + shape->l4);
    flow.insert(flow.end(), at + shape->l4, at + shape->l4 + 4);
    return flow;
  }

  void Take(Expected& taken) {
    for (const Expected& before : expected_) {
      if (&before == &taken) break;
      if (before.sent) continue;
      Require(taken.flow.has_value() && before.flow.has_value() && before.flow != taken.flow);
    }
    taken.sent = true;
  }

  std::vector<Expected> expected_;
};

}  // namespace fuzz

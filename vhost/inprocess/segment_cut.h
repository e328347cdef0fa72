// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Cuts a GSO frame from the TAP into the frames that a guest without segmentation offload can take:
// the mirror of flow_merge.h. The kernel would do the same for a TAP without offloads, at five
// times the cost, since each frame would have to be read by itself.
//
//   std::optional<SegmentCut> cut = SegmentCut::Parse(header, frame, finish_checksums);
//   for (size_t i = 0; i < cut->count(); ++i) { cut->Make(i, segment); ... }
//
// The frame lies in memory of ours, whole. It comes from the host's kernel, but what is in it may
// come from anywhere: nothing is believed that was not checked against its length.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/net_packet.h"

namespace vhost::inprocess {

class SegmentCut {
 public:
  // Headers of a frame up to its payload: IPv6 extensions and IPv4 options included.
  static constexpr size_t kMaxHeaderBytes = 256;

  struct Segment {
    kernel_abi::VirtioNetHdr header;
    std::array<std::byte, kMaxHeaderBytes> head;
    size_t head_bytes = 0;
    std::span<const std::byte> payload;  // in the frame

    size_t bytes() const { return head_bytes + payload.size(); }
  };

  // `frame` with the header that the TAP put in front of it. nullopt: it is no TCP or UDP_L4 GSO
  // frame, or its headers are not as its type says. With `finish_checksums` each segment's checksum
  // is made whole; else it is left to the guest (NEEDS_CSUM).
  static std::optional<SegmentCut> Parse(const kernel_abi::VirtioNetHdr& header,
                                         std::span<const std::byte> frame, bool finish_checksums);

  // How many segments; 1 at least.
  size_t count() const { return count_; }
  void Make(size_t index, Segment& segment) const;

 private:
  std::span<const std::byte> frame_;
  PacketShape shape_;
  size_t segment_bytes_ = 0;
  size_t count_ = 0;
  bool finish_checksums_ = false;
};

// Puts the checksum that `header` says is missing (NEEDS_CSUM) into `frame`. False: it does not lie
// in the frame.
bool FinishChecksum(const kernel_abi::VirtioNetHdr& header, std::span<std::byte> frame);

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Merges the TCP segments and UDP datagrams of one burst that follow each other within a flow, so
// that they reach the TAP in one write with a GSO header: what costs there is the write, not the
// bytes. For guests that do not segment by offload themselves (routers, DPDK, small packets).
//
// The rules are those of the kernel's GRO, and stricter where GRO loses something: cutting what was
// merged (segment_cut.h, or the kernel) gives every frame back byte by byte. So IPv4 ids must count
// up by one, IPv4 header checksums and lengths be right, and a checksum be either left to us with
// the right pseudo header in its place, or right.
//
//     merge.Begin();
//     for each frame, oldest first:  merge.Add(frame)   -> the write that it belongs to
//     for each write, oldest first:  merge.Headers(write) and the payload of its frames
//
// Order: frames of a flow stay in order, writes are in the order of their first frames, and a frame
// that cannot be merged and is of no known flow is overtaken by nothing. So only frames of
// different TCP or UDP flows may change places, as they do in GRO, and only within the burst.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/net_packet.h"

namespace vhost::inprocess {

class FlowMerge {
 public:
  static constexpr size_t kMaxBurst = 64;  // frames
  // Flows that are put together at a time. The oldest gives way to one more.
  static constexpr size_t kMaxFlows = 8;
  // The kernel's limit for UDP (UDP_MAX_SEGMENTS); TCP is bounded by the packet's 64 KiB before.
  static constexpr size_t kMaxSegments = 64;
  // Pieces of guest memory in one write, of the 1024 that writev(2) takes.
  static constexpr size_t kMaxPieces = 512;

  // What may be merged: what the TAP takes with a GSO header.
  struct Kinds {
    bool tcp4 = false;
    bool tcp6 = false;
    bool udp4 = false;
    bool udp6 = false;
    bool any() const { return tcp4 || tcp6 || udp4 || udp6; }
  };
  struct Frame {
    kernel_abi::VirtioNetHdr header;  // copied and checked
    // The frame in guest memory, without the header in front of it.
    std::span<const iovec> pieces;
    size_t bytes = 0;
  };
  struct Added {
    uint16_t write;  // counted from 0 in each burst
    bool merged;     // it joined a write that was there
  };

  explicit FlowMerge(Kinds kinds) : kinds_(kinds) {}

  void Begin();
  // The next frame of the burst, of which there are kMaxBurst at most.
  Added Add(const Frame& frame);

  size_t writes() const { return writes_; }
  // What goes in front of the payload of a write with more than one frame, and how many bytes of
  // each of its frames that stands for.
  struct Headers {
    kernel_abi::VirtioNetHdr header;
    std::span<const std::byte> bytes;
  };
  Headers HeadersOf(size_t write);

 private:
  // A write that may still grow, or has grown.
  struct Flow {
    uint16_t write = 0;
    PacketShape shape;
    uint16_t segment_bytes = 0;  // payload of each but the last
    uint16_t segments = 0;
    uint32_t pieces = 0;
    uint32_t payload_bytes = 0;
    Frame first;
    // The first frame's headers, but for what the last one decides: TCP's PSH.
    std::array<std::byte, kMaxMergeHeaderBytes> head;
  };

  bool MayBegin(const Frame& frame, const std::byte* head, const PacketShape& shape) const;
  Flow* FindOpen(const std::byte* head, const PacketShape& shape);
  // Appends the frame to the flow if it follows.
  static bool Join(Flow& flow, const Frame& frame, const std::byte* head, const PacketShape& shape);
  void Open(Flow& flow, const Frame& frame, const PacketShape& shape);
  void Close(const Flow& flow);

  const Kinds kinds_;
  size_t writes_ = 0;
  size_t used_ = 0;  // of flows_
  // All that were begun in this burst, and one more to copy the next frame's headers into.
  std::array<Flow, kMaxBurst + 1> flows_;
  std::array<Flow*, kMaxFlows> open_{};  // those that may grow, oldest first
  size_t open_count_ = 0;
  std::array<Flow*, kMaxBurst> flow_of_write_{};
};

}  // namespace vhost::inprocess

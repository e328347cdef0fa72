// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A transmit queue: frames from a vring into a queue of a TAP, one writev(2) each or a burst of
// them by io_uring (frame_ring.h), straight from the guest's pages. Where the guest leaves
// segmentation undone, the segments of a burst are merged (flow_merge.h).
//
// Every chain is returned exactly once: when its frame was written, or dropped and counted. One
// whose frame the TAP has no room for is kept, and its frame is the next that is written; it can
// still be put back, so that another backend goes on with it.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/flow_merge.h"
#include "vhost/inprocess/frame_ring.h"
#include "vhost/inprocess/net_counters.h"
#include "vhost/inprocess/net_scratch.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

class TransmitQueue {
 public:
  enum class Outcome : uint8_t {
    kIdle,     // nothing to send
    kWorked,   // something was sent or dropped
    kBlocked,  // the TAP has no room: go on when it is writable
    kBroken,   // the driver broke the ring: queue().broken()
    kTapGone,  // tap_error() says how
  };

  struct Options {
    int tap_fd = -1;  // non-blocking; lent
    size_t header_bytes = sizeof(kernel_abi::VirtioNetHdr);
    FlowMerge::Kinds merge;
    FrameRing* ring = nullptr;  // of the same fd; lent. Null: a system call a frame
  };

  TransmitQueue(std::unique_ptr<Virtqueue> queue, const Options& options, NetScratch& scratch,
                NetCounters& counters);

  // Sends a burst, publishes what was returned, and signals it.
  Outcome Burst();

  // Puts back what was taken and not sent, so that base() is where the next backend goes on.
  void PutBackUnsent();

  Virtqueue& queue() { return *queue_; }
  int tap_error() const { return tap_error_; }

 private:
  static constexpr size_t kBurstFrames = 64;
  static constexpr size_t kBurstBytes = 256 * 1024;

  enum class Sent : uint8_t { kYes, kBlocked, kDropped, kTapGone };

  // Of a burst that is looked at whole, before anything of it is sent.
  struct Packet {
    Chain chain;
    kernel_abi::VirtioNetHdr header;
    uint32_t pieces = 0;  // index of its first in Planned::pieces
    uint32_t piece_count = 0;
    uint32_t bytes = 0;
    int16_t next = -1;  // of the same write
  };
  struct Write {
    int16_t first = -1;
    int16_t last = -1;
    kernel_abi::VirtioNetHdr header;  // of a merged one, once it was gathered
  };
  struct Planned {
    explicit Planned(FlowMerge::Kinds kinds) : flows(kinds) {}
    static constexpr size_t kMaxPieces = 1024;

    FlowMerge flows;
    std::array<Packet, FlowMerge::kMaxBurst> packets;
    std::array<Write, FlowMerge::kMaxBurst> writes;
    std::array<iovec, kMaxPieces> pieces;
    size_t packet_count = 0;
    size_t write_count = 0;
    size_t next_write = 0;
    size_t piece_count = 0;
    // Whether merging pays: of the frames looked at lately, how many were merged.
    uint32_t looked_at = 0;
    uint32_t merged = 0;
    uint32_t pause = 0;  // frames to send without a look
  };

  // What `chain` holds, checked; nullopt: dropped and counted.
  std::optional<kernel_abi::VirtioNetHdr> ReadHeader(const Chain& chain);
  Outcome SendPlain();
  // The iovecs of one write: the chain's own, or gathered from `room` on; empty if that is too
  // little. `skip` bytes of the frame are its header in the guest's memory.
  std::span<const iovec> Gather(const kernel_abi::VirtioNetHdr& header,
                                std::span<const iovec> frame, size_t skip, std::span<iovec> room);
  Sent WriteToTap(std::span<const iovec> pieces);
  Sent WriteCopy(const kernel_abi::VirtioNetHdr& header, std::span<const iovec> frame, size_t skip,
                 size_t bytes);
  Sent Failed(int error);

  // ---- net_transmit_burst.cc
  bool Plan();
  void AddToPlan(Packet& packet, bool merge);
  Outcome SendPlanned();
  Outcome SendPlannedByRing();
  std::span<const iovec> GatherPlanned(size_t write, std::span<iovec> room);
  Sent SendOnePlanned();
  // What became of the next write: nothing if the one behind it is the next now.
  std::optional<Outcome> Conclude(Sent sent);
  void Finish(Write& write, bool sent);
  bool has_plan() const {
    return planned_ != nullptr && planned_->next_write < planned_->write_count;
  }
  bool has_ring() const { return options_.ring != nullptr && options_.ring->broken().ok(); }
  void JudgeMerging();

  Outcome Signal(Outcome outcome);

  std::unique_ptr<Virtqueue> queue_;
  const Options options_;
  NetScratch& scratch_;
  NetCounters& counters_;
  Chain kept_;  // taken, and the TAP had no room
  kernel_abi::VirtioNetHdr kept_header_{};
  std::unique_ptr<Planned> planned_;  // null: frames are sent as they are taken
  int tap_error_ = 0;
};

}  // namespace vhost::inprocess

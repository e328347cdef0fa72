// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The device's side of a split virtqueue (virtio 1.3, 2.7), for queues that this process serves:
// the control queue of a network device, the event queue of a socket device.
//
//     while more:  chain = queue.Take()  ->  chain.Read / chain.Write  ->  chain.Return(written)
//
// The driver is not trusted. Each descriptor is copied once and checked; what was checked is what
// is used, whatever the driver writes meanwhile. A walk is bounded by the ring's size. A ring that
// breaks the rules is broken for good: Take() says how, nothing is written to it any more, and only
// a reset by the driver helps.
//
// Thread safety: one thread at a time, chains included (a device serves under its lock).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/guest_memory.h"
#include "vhost/vring.h"

namespace vhost::inprocess {

class SplitQueue;

// A chain of descriptors that the driver made available: the duty to return it, exactly once. One
// that is dropped is returned with 0 bytes, so that none is ever lost to the driver. It must not
// outlive its queue, nor a change of the queue's memory.
//
// Offsets count the readable bytes, or the writable bytes, of the whole chain from 0 on: a device
// must not care how the driver cut them into descriptors (virtio 1.3, 2.7.4).
class DescChain {
 public:
  DescChain(DescChain&& other) noexcept;
  DescChain& operator=(DescChain&& other) noexcept;
  DescChain(const DescChain&) = delete;
  DescChain& operator=(const DescChain&) = delete;
  ~DescChain();

  uint64_t readable_bytes() const { return readable_bytes_; }
  uint64_t writable_bytes() const { return writable_bytes_; }

  // OUT_OF_RANGE: the chain has fewer bytes than that. Nothing is copied then.
  absl::Status Read(uint64_t offset, std::span<std::byte> to) const;
  absl::Status Write(uint64_t offset, std::span<const std::byte> from);

  // Hands the chain back, with the number of bytes that were written from writable offset 0 on.
  // The chain is empty afterwards, and returning it again does nothing.
  void Return(uint32_t written);

 private:
  friend class SplitQueue;
  struct Segment {
    GuestAddress address;
    uint32_t length;
  };
  DescChain(SplitQueue* queue, uint16_t head) : queue_(queue), head_(head) {}
  template <typename Bytes, typename Copy>
  static absl::Status ForEachPiece(std::span<const Segment> segments, uint64_t offset, Bytes bytes,
                                   Copy copy);
  std::span<const Segment> readable() const { return std::span(segments_).first(readable_count_); }
  std::span<const Segment> writable() const {
    return std::span(segments_).subspan(readable_count_);
  }

  SplitQueue* queue_ = nullptr;
  uint16_t head_ = 0;
  std::vector<Segment> segments_;  // the readable ones, then the writable ones
  size_t readable_count_ = 0;
  uint64_t readable_bytes_ = 0;
  uint64_t writable_bytes_ = 0;
};

class SplitQueue {
 public:
  struct Options {
    bool event_idx = false;      // VIRTIO_F_EVENT_IDX was acked
    bool indirect_desc = false;  // VIRTIO_F_INDIRECT_DESC was acked
  };

  // Serves `vring`, a split ring in `memory`, from available entry `base` on. Signals `call_fd` (an
  // eventfd, lent; -1: nobody) for used-buffer interrupts. `kernel` must outlive the queue.
  SplitQueue(kernel_abi::Kernel& kernel, const Vring& vring, uint16_t base, const Options& options,
             std::shared_ptr<const MemoryTable> memory, int call_fd);
  SplitQueue(const SplitQueue&) = delete;
  SplitQueue& operator=(const SplitQueue&) = delete;

  // The next chain that the driver has made available, or nullopt if there is none. An error says
  // which rule the driver broke, and is repeated by every later call.
  absl::StatusOr<std::optional<DescChain>> Take();

  // Notification suppression (virtio 1.3, 2.7.7, 2.7.10). A server takes all that there is with
  // kicks disabled; EnableKicks() returns true if more came before the driver could see that it
  // has to kick again, and then the server goes on taking:
  //
  //   do { queue.DisableKicks(); while (take) ...; } while (queue.EnableKicks());
  void DisableKicks();
  [[nodiscard]] bool EnableKicks();

  // Signals call if the driver wants to know of the chains returned since the last time.
  void SignalUsed();
  // Signals call whatever the driver wants: after a start.
  void SignalAlways();

  // Another table, in which the ring lies at the same place (Vring::SamePlaceIn).
  void SetMemory(std::shared_ptr<const MemoryTable> memory) { memory_ = std::move(memory); }
  void SetCall(int call_fd) { call_fd_ = call_fd; }

  // The next available entry that will be taken: where another server goes on once every chain
  // taken was returned.
  uint16_t base() const { return next_avail_; }
  uint16_t in_flight() const { return in_flight_; }  // chains taken and not yet returned
  const absl::Status& broken() const { return broken_; }

 private:
  friend class DescChain;
  struct Desc {  // struct virtq_desc, copied
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  struct Walk;

  absl::Status Break(absl::Status why);
  absl::StatusOr<DescChain> WalkChain(uint16_t head);
  absl::Status WalkTable(Walk& walk, DescChain& chain);
  absl::Status AddSegment(const Desc& desc, DescChain& chain) const;
  Desc RingDesc(uint16_t index) const;
  void PutUsed(uint16_t head, uint32_t written);

  kernel_abi::Kernel& kernel_;
  const Vring vring_;
  const Options options_;
  std::shared_ptr<const MemoryTable> memory_;
  int call_fd_;
  uint16_t next_avail_;
  uint16_t used_;            // our copy of used->idx: the ring's is written, never read
  uint16_t signalled_used_;  // used_ when call was last considered
  uint16_t in_flight_ = 0;
  absl::Status broken_;
};

}  // namespace vhost::inprocess

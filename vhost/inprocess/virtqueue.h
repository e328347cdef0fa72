// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The device's side of a virtqueue, for queues that this process serves; split or packed, as the
// driver acked.
//
//     Chain chain;
//     do {
//       queue->DisableKicks();
//       while (queue->Take(chain)) { ... chain.readable(), chain.writable() ...; chain.Return(n); }
//       if (!queue->broken().ok()) ...;   // the driver broke a rule: only its reset helps
//       queue->SignalUsed();
//     } while (queue->EnableKicks());
//
// The driver is not trusted. Each descriptor is copied once and checked; what was checked is what
// is used, whatever the driver writes meanwhile. A walk is bounded by the ring's size. A ring that
// breaks the rules is broken for good: broken() says how, and nothing is written to it any more.
//
// What was returned is published in batches: the driver sees returned chains, all of them at once,
// when Flush() or SignalUsed() or EnableKicks() is called, or the queue destroyed.
//
// Thread safety: one thread at a time, chains included.
#pragma once

#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "kernel-abi/kernel.h"
#include "vhost/backend.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/inprocess/guest_words.h"
#include "vhost/inprocess/iovec_pool.h"
#include "vhost/inprocess/region_cache.h"
#include "vhost/vring.h"

namespace vhost::inprocess {

class Virtqueue;

// A chain of descriptors that the driver made available: the duty to return it, exactly once. One
// that is dropped is returned with 0 bytes, so that none is ever lost to the driver. It must not
// outlive its queue, nor a change of the queue's memory.
//
// The iovecs are host addresses, all of them in guest memory, which the guest may change at any
// time: copy what is to be checked. A device must not care how the driver cut its bytes into
// descriptors (virtio 1.3, 2.7.4), and there may be more iovecs than the ring has entries where a
// buffer lies in several memory regions.
class Chain {
 public:
  Chain() = default;
  Chain(Chain&& other) noexcept { MoveFrom(other); }
  Chain& operator=(Chain&& other) noexcept {
    if (this == &other) return *this;
    if (queue_ != nullptr) Return(0);
    MoveFrom(other);
    return *this;
  }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain() {
    if (queue_ != nullptr) Return(0);
  }

  // False before it was taken and after it was returned; the rest is of no meaning then.
  bool held() const { return queue_ != nullptr; }

  std::span<const iovec> readable() const { return {iovecs_, readable_count_}; }
  std::span<const iovec> writable() const { return {iovecs_ + readable_count_, writable_count_}; }
  // Bytes in all of them; no chain has more than 2^32.
  size_t readable_bytes() const { return readable_bytes_; }
  size_t writable_bytes() const { return writable_bytes_; }

  // Which one it is to the driver: the index of its first descriptor; in a packed ring its ID.
  uint16_t head() const { return id_; }

  // Copies. Offsets count the readable, or the writable, bytes of the whole chain from 0 on.
  // OUT_OF_RANGE: the chain has fewer bytes than that. Nothing is copied then.
  absl::Status Read(size_t offset, std::span<std::byte> to) const;
  absl::Status Write(size_t offset, std::span<const std::byte> from) const;

  // Hands the chain back, with the number of bytes that were written from writable offset 0 on (at
  // most writable_bytes() is told to the driver). Returning it again does nothing.
  void Return(uint32_t written);

 private:
  friend class Virtqueue;
  friend class SplitQueue;
  friend class PackedQueue;

  void MoveFrom(Chain& other) {
    queue_ = std::exchange(other.queue_, nullptr);
    iovecs_ = other.iovecs_;
    readable_count_ = std::exchange(other.readable_count_, 0);
    writable_count_ = std::exchange(other.writable_count_, 0);
    readable_bytes_ = std::exchange(other.readable_bytes_, 0);
    writable_bytes_ = std::exchange(other.writable_bytes_, 0);
    slot_ = other.slot_;
    id_ = other.id_;
    entries_ = other.entries_;
    position_ = other.position_;
    order_ = other.order_;
  }

  Virtqueue* queue_ = nullptr;
  const iovec* iovecs_ = nullptr;  // the readable ones, then the writable ones
  uint32_t readable_count_ = 0;
  uint32_t writable_count_ = 0;
  size_t readable_bytes_ = 0;
  size_t writable_bytes_ = 0;
  uint32_t slot_ = 0;      // in the queue's pool
  uint16_t id_ = 0;        // split: index of the head; packed: buffer id
  uint16_t entries_ = 0;   // of the ring that it takes up: split 1, packed its descriptors
  uint16_t position_ = 0;  // where it was taken from: split available index, packed ring offset
  uint16_t order_ = 0;     // with IN_ORDER: its place among the chains that were taken
};

class Virtqueue {
 public:
  // Serves `vring`, which lies in `memory`, from `base` on, as `acked` says: RING_PACKED (which
  // must agree with the vring's layout), EVENT_IDX, INDIRECT_DESC, IN_ORDER. Signals `call_fd` (an
  // eventfd, lent; -1: nobody) for used-buffer interrupts. `kernel` must outlive the queue. A base
  // that is none makes a queue that is broken from the start.
  static std::unique_ptr<Virtqueue> Create(kernel_abi::Kernel& kernel, const Vring& vring,
                                           VringBase base, VirtioFeatures acked,
                                           std::shared_ptr<const MemoryTable> memory, int call_fd);
  Virtqueue(const Virtqueue&) = delete;
  Virtqueue& operator=(const Virtqueue&) = delete;
  virtual ~Virtqueue() = default;

  // The next chain that the driver has made available. What `chain` held before is returned with 0
  // bytes. False: there is none now, or broken() says why there never will be.
  bool Take(Chain& chain) {
    if (chain.held()) chain.Return(0);
    return TakeNext(chain);
  }

  // Undoes Take for `chain`, which must be the one taken last (or, putting back several, the last
  // of those that were not put back): the driver's next chain is this one again.
  void PutBack(Chain chain);

  // Notification suppression (virtio 1.3, 2.7.7, 2.7.10, 2.8.10). EnableKicks() is true if more
  // came before the driver could see that it has to kick again; the server goes on taking then.
  // Both publish or change nothing in a broken ring.
  virtual void DisableKicks() = 0;
  [[nodiscard]] virtual bool EnableKicks() = 0;

  // Publishes what was returned.
  virtual void Flush() = 0;
  // Publishes, and signals call if the driver wants to know of what was published since the last
  // time this was called. True if it was signalled.
  bool SignalUsed();
  // Signals call whatever the driver wants: after a start.
  void SignalAlways();

  // Another table, in which the ring lies at the same place (Vring::SamePlaceIn).
  void SetMemory(std::shared_ptr<const MemoryTable> memory);
  void SetCall(int call_fd) { call_fd_ = call_fd; }

  // Where another server goes on, once every chain that was taken has been returned, and published.
  virtual VringBase base() const = 0;
  // Ring entries that were published as used, since this queue was made.
  uint64_t published() const { return published_; }
  uint16_t size() const { return vring_.size(); }
  const Vring& vring() const { return vring_; }
  uint16_t in_flight() const { return in_flight_; }  // chains taken and not yet returned
  const absl::Status& broken() const { return broken_; }

 protected:
  struct Options {
    bool event_idx;
    bool indirect_desc;
    bool in_order;
  };

  // The chain that is being built from descriptors.
  struct Building {
    iovec* iovecs;
    uint32_t capacity;
    uint32_t slot;
    uint32_t count = 0;
    uint32_t readable_count = 0;
    uint32_t descs = 0;  // descriptors seen, those of an indirect table included
    uint64_t bytes = 0;
    uint64_t readable_bytes = 0;
  };

  Virtqueue(kernel_abi::Kernel& kernel, const Vring& vring, const Options& options,
            std::shared_ptr<const MemoryTable> memory, int call_fd);

  // Fills an empty chain.
  virtual bool TakeNext(Chain& chain) = 0;
  // Goes back behind `chain`. False: it is not the newest.
  virtual bool UndoTake(const Chain& chain) = 0;
  // Enters `chain` as used, not published yet. Never called for a broken ring.
  virtual void PutUsed(const Chain& chain, uint32_t written) = 0;
  // Whether the driver wants to be interrupted for what was published since the last call.
  virtual bool CallWanted() = 0;

  Building Begin() {
    const uint32_t slot = pool_.Acquire();
    return {.iovecs = pool_.data(slot), .capacity = pool_.capacity(slot), .slot = slot};
  }
  // Checks one buffer and appends it. False: broken. Inlined into each walk: it is most of what a
  // descriptor costs.
  [[gnu::always_inline]] bool Append(Building& building, uint64_t address, uint32_t length,
                                     bool writable) {
    if (!writable) {
      if (building.count != building.readable_count) [[unlikely]]
        return BreakDirection();
    }
    uint64_t available;
    std::byte* host = data_regions_.Find(address, available);
    if (host == nullptr || length > available || length == 0 ||
        building.count == building.capacity || building.bytes + length > kMaxChainBytes)
        [[unlikely]] {
      if (!AppendSlowly(building, address, length)) return false;
    } else {
      building.iovecs[building.count++] = {host, length};
    }
    building.bytes += length;
    if (!writable) {
      building.readable_count = building.count;
      building.readable_bytes = building.bytes;
    }
    return true;
  }
  // Hands what was built to `chain`, or gives it up.
  void Finish(const Building& building, Chain& chain) {
    chain.queue_ = this;
    chain.iovecs_ = building.iovecs;
    chain.readable_count_ = building.readable_count;
    chain.writable_count_ = building.count - building.readable_count;
    chain.readable_bytes_ = building.readable_bytes;
    chain.writable_bytes_ = building.bytes - building.readable_bytes;
    chain.slot_ = building.slot;
    ++in_flight_;
  }
  void GiveUp(const Building& building) { pool_.Release(building.slot); }

  // An indirect table of descriptors, which lies in one piece (`host`) or is spread over regions.
  struct IndirectTable {
    const std::byte* host = nullptr;
    uint64_t address = 0;
    uint32_t count = 0;
  };
  // False: broken; the table's length makes no sense, or it is not all in guest memory.
  bool OpenTable(uint64_t address, uint32_t bytes, IndirectTable& table);
  template <typename Descriptor>
  Descriptor CopyTableEntry(const IndirectTable& table, uint32_t index) {
    const uint64_t offset = sizeof(Descriptor) * uint64_t{index};
    if (table.host != nullptr) [[likely]]
      return CopyDescriptor<Descriptor>(table.host + offset);
    return std::bit_cast<Descriptor>(CopyScattered(table.address + offset));
  }

  // Always false, so that a check can return it. The first reason stays.
  bool Break(absl::Status why);

  kernel_abi::Kernel& kernel_;
  const Vring vring_;
  const Options options_;
  RegionCache data_regions_;
  RegionCache table_regions_;  // of indirect tables
  absl::Status broken_;
  uint64_t published_ = 0;

 private:
  friend class Chain;
  static constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;
  // How many pieces more than descriptors a chain may be cut into by the borders of regions.
  static constexpr uint32_t kMaxExtraPieces = 1024;

  std::array<std::byte, 16> CopyScattered(uint64_t address);
  bool BreakDirection();
  bool AppendSlowly(Building& building, uint64_t address, uint32_t length);
  void ReturnChain(Chain& chain, uint32_t written);

  IovecPool pool_;
  int call_fd_;
  uint16_t in_flight_ = 0;
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

// A packed virtqueue (virtio 1.3, 2.8), made by Virtqueue::Create.
//
// One ring of descriptors, which both sides go around. Each has a wrap counter that changes with
// every round; a descriptor is available when its AVAIL bit is as the driver's counter and its USED
// bit is not, and used when both are as ours. Chains lie in the ring in one piece, so a used one
// takes up as many entries as it had descriptors, from where the last used one ended.
//
// Several returned chains are published with one store: the flags of the first, behind which the
// driver does not look before it sees them.
class PackedQueue final : public Virtqueue {
 public:
  PackedQueue(kernel_abi::Kernel& kernel, const Vring& vring, VringBase base,
              const Options& options, std::shared_ptr<const MemoryTable> memory, int call_fd);
  ~PackedQueue() override { PackedQueue::Flush(); }

  void DisableKicks() override;
  bool EnableKicks() override;
  void Flush() override;
  VringBase base() const override;

 private:
  // A place in the ring, and the wrap counter there.
  struct Place {
    uint16_t offset;
    bool wrap;

    uint16_t encoded() const { return static_cast<uint16_t>(offset | (wrap ? 0x8000 : 0)); }
    void Forward(uint16_t entries, uint16_t size) {
      uint32_t to = uint32_t{offset} + entries;
      if (to >= size) {
        to -= size;
        wrap = !wrap;
      }
      offset = static_cast<uint16_t>(to);
    }
    void Backward(uint16_t entries, uint16_t size) {
      if (entries > offset) wrap = !wrap;
      offset = static_cast<uint16_t>(offset - entries + (entries > offset ? size : 0));
    }
  };
  static Place Decode(uint32_t half) {
    return {static_cast<uint16_t>(half & 0x7fff), (half & 0x8000) != 0};
  }

  // A chain that was taken, with IN_ORDER, which wants them back in the order that they came in.
  struct InOrder {
    uint16_t id;
    uint16_t entries;
    bool returned;
    bool complete;  // all of its writable bytes were written
    uint32_t written;
  };

  bool TakeNext(Chain& chain) override;
  bool UndoTake(const Chain& chain) override;
  void PutUsed(const Chain& chain, uint32_t written) override;
  bool CallWanted() override;

  std::byte* At(uint16_t offset) const {
    return desc_ + sizeof(kernel_abi::PackedDesc) * size_t{offset};
  }
  // Acquire: if true, all that the driver wrote of the chain before is seen.
  bool IsAvailable(Place place, uint16_t& flags) const;
  bool WalkRing(Building& building, uint16_t flags, uint16_t& id, uint16_t& entries);
  bool WalkIndirect(Building& building, uint64_t table, uint32_t bytes);
  void WriteUsed(uint16_t id, uint32_t written, uint16_t entries);
  void UseInOrder();
  uint16_t NextSlot(uint16_t slot) const {
    return static_cast<uint16_t>(slot + 1 == size() ? 0 : slot + 1);
  }
  void SetKickFlags(uint16_t flags);

  std::byte* const desc_;
  std::byte* const driver_event_;
  std::byte* const device_event_;
  Place next_avail_;
  Place next_used_;
  uint16_t taken_ = 0;  // ring entries of the chains that were taken, less those published
  // What was entered as used and is not published: the last half of the first one's descriptor,
  // with its flags, waits for Flush().
  uint16_t unpublished_ = 0;  // ring entries
  uint16_t first_offset_ = 0;
  uint64_t first_half_ = 0;
  uint32_t unsignalled_ = 0;  // ring entries published since call was last considered
  uint16_t kick_flags_;       // of the device event area, as last written
  // With IN_ORDER: a ring of `in_order_count_` chains, from `in_order_first_` on; Chain::order_.
  std::vector<InOrder> in_order_;
  uint16_t in_order_first_ = 0;
  uint16_t in_order_next_ = 0;
  uint16_t in_order_count_ = 0;
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

// A split virtqueue (virtio 1.3, 2.7), made by Virtqueue::Create.
//
// All indices are kept here. The driver's available index is read again only when what was seen of
// it has been taken; our used index is written, and read only once, at the start.
class SplitQueue final : public Virtqueue {
 public:
  SplitQueue(kernel_abi::Kernel& kernel, const Vring& vring, VringBase base, const Options& options,
             std::shared_ptr<const MemoryTable> memory, int call_fd);
  ~SplitQueue() override { SplitQueue::Flush(); }

  void DisableKicks() override;
  bool EnableKicks() override;
  void Flush() override;
  VringBase base() const override { return next_avail_; }

 private:
  // A chain that was taken, with IN_ORDER, which wants them back in the order that they came in.
  struct InOrder {
    uint16_t id;
    bool returned;
    bool complete;  // all of its writable bytes were written
    uint32_t written;
  };

  bool TakeNext(Chain& chain) override;
  bool UndoTake(const Chain& chain) override;
  void PutUsed(const Chain& chain, uint32_t written) override;
  bool CallWanted() override;

  bool LookForMore();
  bool WalkOne(Building& building, uint16_t head);
  bool Walk(Building& building, kernel_abi::VirtqDesc first);
  bool BreakIndex(uint32_t index);
  bool WalkIndirect(Building& building, uint64_t table, uint32_t bytes);
  bool BreakAt(uint16_t head);
  void WriteUsed(uint16_t slot, uint16_t id, uint32_t written);
  void UseInOrder();

  const uint16_t mask_;
  std::byte* const desc_;
  std::byte* const avail_;
  std::byte* const used_ring_;
  uint16_t next_avail_;
  uint16_t avail_seen_;      // of the driver's index
  uint16_t used_;            // entries written
  uint16_t published_used_;  // used->idx
  uint16_t signalled_used_;  // used_ when call was last considered
  uint16_t taken_ = 0;       // chains taken less chains published: the driver's to use again
  // With IN_ORDER: by Chain::order_ modulo the ring's size.
  std::vector<InOrder> in_order_;
  uint16_t order_ = 0;       // of the next chain taken
  uint16_t next_order_ = 0;  // of the next chain to enter as used
};

}  // namespace vhost::inprocess

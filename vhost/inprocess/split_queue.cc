// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/split_queue.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "vhost/inprocess/guest_words.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::kAvailFNoInterrupt;
using kernel_abi::kDescFIndirect;
using kernel_abi::kDescFNext;
using kernel_abi::kDescFWrite;
using kernel_abi::kUsedFNoNotify;
using kernel_abi::VirtqDesc;
using kernel_abi::VirtqUsedElem;

// Where the words of the avail and used rings are, in bytes.
constexpr size_t kFlags = 0;
constexpr size_t kIndex = 2;
constexpr size_t kEntries = 4;

// Ring indices run modulo 2^16 and are taken modulo the ring's size to find an entry.
constexpr uint16_t Distance(uint16_t from, uint16_t to) { return static_cast<uint16_t>(to - from); }

// virtio 1.3, 2.7.10: whether moving an index from `before` to `now` passed `event`.
constexpr bool Passed(uint16_t event, uint16_t before, uint16_t now) {
  return Distance(event, static_cast<uint16_t>(now - 1)) < Distance(before, now);
}
static_assert(Passed(5, 5, 6) && !Passed(6, 5, 6) && !Passed(4, 5, 6));
static_assert(Passed(0xffff, 0xfffe, 1) && Passed(0, 0xfffe, 1) && !Passed(1, 0xfffe, 1));

}  // namespace

SplitQueue::SplitQueue(kernel_abi::Kernel& kernel, const Vring& vring, VringBase base,
                       const Options& options, std::shared_ptr<const MemoryTable> memory,
                       int call_fd)
    : Virtqueue(kernel, vring, options, std::move(memory), call_fd),
      mask_(static_cast<uint16_t>(vring.size() - 1)),
      desc_(vring.desc()),
      avail_(vring.driver()),
      used_ring_(vring.device()),
      next_avail_(static_cast<uint16_t>(base)),
      avail_seen_(next_avail_),
      // The one time that used->idx is read: another server may have filled entries before us.
      used_(LoadWord<uint16_t>(used_ring_ + kIndex, std::memory_order_relaxed)),
      published_used_(used_),
      signalled_used_(used_),
      in_order_(options.in_order ? vring.size() : 0) {
  if (base > UINT16_MAX) {
    Break(absl::InvalidArgumentError(absl::StrFormat("base %#x is none of a split ring", base)));
    return;
  }
  // Flags that a server before us left would silence the driver for ever.
  StoreWord<uint16_t>(used_ring_ + kFlags, 0, std::memory_order_relaxed);
}

// ---- Taking ------------------------------------------------------------------------------------

bool SplitQueue::LookForMore() {
  if (!broken_.ok()) return false;
  // Acquire: what the driver wrote before it moved the index (entry, descriptors, data) is seen.
  const uint16_t avail = LoadWord<uint16_t>(avail_ + kIndex, std::memory_order_acquire);
  const uint16_t waiting = Distance(next_avail_, avail);
  if (waiting == 0) return false;
  // A driver cannot have more chains under way than the ring has entries.
  if (waiting + taken_ > size()) {
    return Break(absl::InvalidArgumentError(absl::StrFormat(
        "available index %d is %d entries ahead of %d, in a ring of %d with %d in flight", avail,
        waiting, next_avail_, size(), taken_)));
  }
  avail_seen_ = avail;
  return true;
}

bool SplitQueue::TakeNext(Chain& chain) {
  // Broken rings end here too: nothing is left of what was seen.
  if (next_avail_ == avail_seen_ && !LookForMore()) return false;
  const uint16_t head =
      LoadWord<uint16_t>(avail_ + kEntries + 2 * size_t{static_cast<uint16_t>(next_avail_ & mask_)},
                         std::memory_order_relaxed);
  Building building = Begin();
  if (!WalkOne(building, head)) [[unlikely]] {
    GiveUp(building);
    return BreakAt(head);
  }
  Finish(building, chain);
  chain.id_ = head;
  chain.entries_ = 1;
  chain.position_ = next_avail_++;
  ++taken_;
  if (options_.in_order) {
    chain.order_ = order_++;
    in_order_[chain.order_ & mask_] = {
        .id = head, .returned = false, .complete = false, .written = 0};
  }
  return true;
}

bool SplitQueue::BreakAt(uint16_t head) {
  broken_ = kernel_abi::AddContext(
      broken_, absl::StrFormat("available entry %d (head %d)", next_avail_, head));
  avail_seen_ = next_avail_;
  return false;
}

// Most chains are of one descriptor, and end here.
bool SplitQueue::WalkOne(Building& building, uint16_t head) {
  if (head >= size()) [[unlikely]]
    return BreakIndex(head);
  const auto desc = CopyDescriptor<VirtqDesc>(desc_ + sizeof(VirtqDesc) * head);
  if ((desc.flags & (kDescFIndirect | kDescFNext)) != 0) return Walk(building, desc);
  building.descs = 1;
  return Append(building, desc.addr, desc.len, (desc.flags & kDescFWrite) != 0);
}

bool SplitQueue::BreakIndex(uint32_t index) {
  return Break(
      absl::InvalidArgumentError(absl::StrFormat("descriptor %d in a table of %d", index, size())));
}

bool SplitQueue::Walk(Building& building, VirtqDesc desc) {
  while (true) {
    // Also what ends a cycle (virtio 1.3, 2.7.5.3.1: no chain is longer than the queue).
    if (++building.descs > size()) [[unlikely]] {
      return Break(absl::InvalidArgumentError(
          absl::StrFormat("more than %d descriptors in a chain", size())));
    }
    if ((desc.flags & kDescFIndirect) != 0) {
      if (!options_.indirect_desc) {
        return Break(absl::InvalidArgumentError(
            "an indirect descriptor, though VIRTIO_F_INDIRECT_DESC was not negotiated"));
      }
      if ((desc.flags & kDescFNext) != 0) {
        return Break(absl::InvalidArgumentError("an indirect descriptor with a next one"));
      }
      --building.descs;  // It stands for those in its table.
      return WalkIndirect(building, desc.addr, desc.len);
    }
    if (!Append(building, desc.addr, desc.len, (desc.flags & kDescFWrite) != 0)) return false;
    if ((desc.flags & kDescFNext) == 0) return true;
    if (desc.next >= size()) [[unlikely]]
      return BreakIndex(desc.next);
    desc = CopyDescriptor<VirtqDesc>(desc_ + sizeof(VirtqDesc) * desc.next);
  }
}

bool SplitQueue::WalkIndirect(Building& building, uint64_t table, uint32_t bytes) {
  IndirectTable entries;
  if (!OpenTable(table, bytes, entries)) return false;
  for (uint32_t index = 0;;) {
    if (index >= entries.count) [[unlikely]] {
      return Break(absl::InvalidArgumentError(
          absl::StrFormat("descriptor %d in a table of %d", index, entries.count)));
    }
    if (++building.descs > size()) [[unlikely]] {
      return Break(absl::InvalidArgumentError(
          absl::StrFormat("more than %d descriptors in a chain", size())));
    }
    const auto desc = CopyTableEntry<VirtqDesc>(entries, index);
    if ((desc.flags & kDescFIndirect) != 0) [[unlikely]] {
      return Break(absl::InvalidArgumentError("an indirect descriptor in an indirect table"));
    }
    if (!Append(building, desc.addr, desc.len, (desc.flags & kDescFWrite) != 0)) return false;
    if ((desc.flags & kDescFNext) == 0) return true;
    index = desc.next;
  }
}

bool SplitQueue::UndoTake(const Chain& chain) {
  if (chain.position_ != static_cast<uint16_t>(next_avail_ - 1)) return false;
  --next_avail_;
  --taken_;
  if (options_.in_order) --order_;
  return true;
}

// ---- Returning ---------------------------------------------------------------------------------

void SplitQueue::WriteUsed(uint16_t slot, uint16_t id, uint32_t written) {
  std::byte* entry = used_ring_ + kEntries + sizeof(VirtqUsedElem) * slot;
  StoreWord<uint32_t>(entry, id, std::memory_order_relaxed);
  StoreWord<uint32_t>(entry + 4, written, std::memory_order_relaxed);
}

void SplitQueue::PutUsed(const Chain& chain, uint32_t written) {
  if (options_.in_order) {
    InOrder& entry = in_order_[chain.order_ & mask_];
    entry.returned = true;
    entry.complete = written == chain.writable_bytes();
    entry.written = written;
    return;
  }
  WriteUsed(used_++ & mask_, chain.id_, written);
}

// virtio 1.3, 2.7.9: one entry tells of a batch, at the place of its first chain and with the id of
// its last. The driver takes all but the last for used completely, so those must be.
void SplitQueue::UseInOrder() {
  while (next_order_ != order_ && in_order_[next_order_ & mask_].returned) {
    const uint16_t first = used_;
    const InOrder* last;
    bool more;
    do {
      last = &in_order_[next_order_++ & mask_];
      ++used_;
      more = last->complete && next_order_ != order_ && in_order_[next_order_ & mask_].returned;
    } while (more);
    WriteUsed(first & mask_, last->id, last->written);
  }
}

void SplitQueue::Flush() {
  if (!broken_.ok()) return;
  if (options_.in_order) UseInOrder();
  if (published_used_ == used_) return;
  taken_ = static_cast<uint16_t>(taken_ - Distance(published_used_, used_));
  published_ += Distance(published_used_, used_);
  published_used_ = used_;
  // Release: a driver that sees the index sees the entries and the data. Pairs with its own
  // acquire.
  StoreWord<uint16_t>(used_ring_ + kIndex, used_, std::memory_order_release);
}

// ---- Suppression -------------------------------------------------------------------------------

void SplitQueue::DisableKicks() {
  // With EVENT_IDX there is nothing to write: avail_event stays behind, and is not passed again
  // until EnableKicks() moves it (used->flags is ignored then, 2.7.10.2).
  if (options_.event_idx || !broken_.ok()) return;
  StoreWord<uint16_t>(used_ring_ + kFlags, kUsedFNoNotify, std::memory_order_relaxed);
}

bool SplitQueue::EnableKicks() {
  Flush();
  if (!broken_.ok()) return false;
  if (options_.event_idx) {
    StoreWord<uint16_t>(used_ring_ + kEntries + sizeof(VirtqUsedElem) * size(), next_avail_,
                        std::memory_order_relaxed);
  } else {
    StoreWord<uint16_t>(used_ring_ + kFlags, 0, std::memory_order_relaxed);
  }
  // Either the driver's next index is seen below, or the driver sees that it has to kick: its own
  // barrier stands between moving the index and looking at the flag or the event word.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return LoadWord<uint16_t>(avail_ + kIndex, std::memory_order_relaxed) != next_avail_;
}

bool SplitQueue::CallWanted() {
  if (published_used_ == signalled_used_) return false;
  // Either the driver sees the used index, or we see that it wants an interrupt for it.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t before = std::exchange(signalled_used_, published_used_);
  if (options_.event_idx) {
    const auto event =
        LoadWord<uint16_t>(avail_ + kEntries + 2 * size_t{size()}, std::memory_order_relaxed);
    return Passed(event, before, published_used_);
  }
  return (LoadWord<uint16_t>(avail_ + kFlags, std::memory_order_relaxed) & kAvailFNoInterrupt) == 0;
}

}  // namespace vhost::inprocess

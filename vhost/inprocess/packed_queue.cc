// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/packed_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "vhost/inprocess/guest_words.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::kDescFIndirect;
using kernel_abi::kDescFNext;
using kernel_abi::kDescFWrite;
using kernel_abi::kPackedDescFAvail;
using kernel_abi::kPackedDescFUsed;
using kernel_abi::kPackedEventDesc;
using kernel_abi::kPackedEventDisable;
using kernel_abi::kPackedEventEnable;
using kernel_abi::PackedDesc;
using kernel_abi::PackedEvent;

// Where a descriptor's flags are, and its last half: length, buffer id, flags.
constexpr size_t kFlags = offsetof(PackedDesc, flags);
constexpr size_t kLastHalf = offsetof(PackedDesc, len);
static_assert(kLastHalf == 8 && offsetof(PackedDesc, id) == 12 && kFlags == 14);

// Entries from `event` back to `now`, of which `entries` were just used: whether `event` is one of
// them (virtio 1.3, 2.8.10). An event in the same round lies `now - event` back, one of the round
// before a ring further; an offset of the other round that is less than `now` is still to come.
bool Passed(uint16_t event, bool event_wrap, uint16_t now, bool wrap, uint32_t entries,
            uint16_t size) {
  if (entries >= size) return true;
  const int32_t behind = int32_t{now} - event + (event_wrap == wrap ? 0 : size);
  return behind >= 1 && behind <= static_cast<int32_t>(entries);
}

}  // namespace

PackedQueue::PackedQueue(kernel_abi::Kernel& kernel, const Vring& vring, VringBase base,
                         const Options& options, std::shared_ptr<const MemoryTable> memory,
                         int call_fd)
    : Virtqueue(kernel, vring, options, std::move(memory), call_fd),
      desc_(vring.desc()),
      driver_event_(vring.driver()),
      device_event_(vring.device()),
      next_avail_(Decode(base & 0xffff)),
      next_used_(Decode(base >> 16)),
      kick_flags_(kPackedEventEnable),
      in_order_(options.in_order ? vring.size() : 0) {
  const int32_t ahead = int32_t{next_avail_.offset} - next_used_.offset +
                        (next_avail_.wrap == next_used_.wrap ? 0 : size());
  if (next_avail_.offset >= size() || next_used_.offset >= size() || ahead < 0 || ahead > size()) {
    Break(absl::InvalidArgumentError(
        absl::StrFormat("base %#x is none of a packed ring of %d", base, size())));
    return;
  }
  taken_ = static_cast<uint16_t>(ahead);
  // Flags that a server before us left would silence the driver for ever.
  StoreWord<uint16_t>(device_event_ + offsetof(PackedEvent, flags), kick_flags_,
                      std::memory_order_relaxed);
}

VringBase PackedQueue::base() const {
  // With what waits for a flush.
  Place used = next_used_;
  uint16_t slot = in_order_first_;
  for (uint16_t i = 0; i < in_order_count_ && in_order_[slot].returned; ++i) {
    used.Forward(in_order_[slot].entries, size());
    slot = NextSlot(slot);
  }
  return next_avail_.encoded() | VringBase{used.encoded()} << 16;
}

// ---- Taking ------------------------------------------------------------------------------------

bool PackedQueue::IsAvailable(Place place, uint16_t& flags) const {
  flags = LoadWord<uint16_t>(At(place.offset) + kFlags, std::memory_order_acquire);
  const uint16_t available = place.wrap ? kPackedDescFAvail : kPackedDescFUsed;
  return (flags & (kPackedDescFAvail | kPackedDescFUsed)) == available;
}

bool PackedQueue::TakeNext(Chain& chain) {
  uint16_t flags;
  // In this order: a queue that is broken from the start stands nowhere in the ring.
  if (!broken_.ok() || !IsAvailable(next_avail_, flags)) return false;
  uint16_t id = 0;
  uint16_t entries = 0;
  Building building = Begin();
  if (!WalkRing(building, flags, id, entries)) [[unlikely]] {
    GiveUp(building);
    broken_ = kernel_abi::AddContext(
        broken_, absl::StrFormat("available descriptor %d", next_avail_.offset));
    return false;
  }
  Finish(building, chain);
  chain.id_ = id;
  chain.entries_ = entries;
  chain.position_ = next_avail_.encoded();
  next_avail_.Forward(entries, size());
  taken_ = static_cast<uint16_t>(taken_ + entries);
  if (options_.in_order) {
    chain.order_ = in_order_next_;
    in_order_[in_order_next_] = {
        .id = id, .entries = entries, .returned = false, .complete = false, .written = 0};
    in_order_next_ = NextSlot(in_order_next_);
    ++in_order_count_;
  }
  return true;
}

bool PackedQueue::WalkRing(Building& building, uint16_t flags, uint16_t& id, uint16_t& entries) {
  uint16_t offset = next_avail_.offset;
  // The driver makes the first descriptor available last (2.8.6), so the others need no look at
  // their AVAIL and USED bits.
  for (bool first = true;; first = false) {
    // Also what ends a chain without an end.
    if (++entries + taken_ > size()) [[unlikely]] {
      return Break(absl::InvalidArgumentError(
          absl::StrFormat("more than %d descriptors in a ring of %d with %d in flight", entries - 1,
                          size(), taken_)));
    }
    const auto desc = CopyDescriptor<PackedDesc>(At(offset));
    if (!first) flags = desc.flags;
    id = desc.id;
    if ((flags & kDescFIndirect) != 0) {
      if (!options_.indirect_desc) {
        return Break(absl::InvalidArgumentError(
            "an indirect descriptor, though VIRTIO_F_INDIRECT_DESC was not negotiated"));
      }
      // 2.8.19: it stands alone.
      if (!first || (flags & kDescFNext) != 0) {
        return Break(absl::InvalidArgumentError("an indirect descriptor in a list of others"));
      }
      return WalkIndirect(building, desc.addr, desc.len);
    }
    if (!Append(building, desc.addr, desc.len, (flags & kDescFWrite) != 0)) return false;
    if ((flags & kDescFNext) == 0) return true;
    offset = static_cast<uint16_t>(offset + 1 == size() ? 0 : offset + 1);
  }
}

// 2.8.8: all descriptors of the table, in their order; NEXT means nothing there.
bool PackedQueue::WalkIndirect(Building& building, uint64_t table, uint32_t bytes) {
  IndirectTable entries;
  if (!OpenTable(table, bytes, entries)) return false;
  if (entries.count > size()) [[unlikely]] {
    return Break(
        absl::InvalidArgumentError(absl::StrFormat("more than %d descriptors in a chain", size())));
  }
  for (uint32_t index = 0; index < entries.count; ++index) {
    const auto desc = CopyTableEntry<PackedDesc>(entries, index);
    if ((desc.flags & kDescFIndirect) != 0) [[unlikely]] {
      return Break(absl::InvalidArgumentError("an indirect descriptor in an indirect table"));
    }
    if (!Append(building, desc.addr, desc.len, (desc.flags & kDescFWrite) != 0)) return false;
  }
  return true;
}

bool PackedQueue::UndoTake(const Chain& chain) {
  Place back = next_avail_;
  back.Backward(chain.entries_, size());
  if (back.encoded() != chain.position_) return false;
  next_avail_ = back;
  taken_ = static_cast<uint16_t>(taken_ - chain.entries_);
  if (options_.in_order) {
    in_order_next_ = chain.order_;
    --in_order_count_;
  }
  return true;
}

// ---- Returning ---------------------------------------------------------------------------------

// The entries that are overwritten were all taken: the used ones never overtake those taken.
void PackedQueue::WriteUsed(uint16_t id, uint32_t written, uint16_t entries) {
  uint16_t flags = next_used_.wrap ? kPackedDescFAvail | kPackedDescFUsed : 0;
  if (written != 0) flags |= kDescFWrite;  // 2.8.4: the length means something
  const uint64_t half = written | uint64_t{id} << 32 | uint64_t{flags} << 48;
  if (unpublished_ == 0) {
    first_offset_ = next_used_.offset;
    first_half_ = half;
  } else {
    StoreWord<uint64_t>(At(next_used_.offset) + kLastHalf, half, std::memory_order_relaxed);
  }
  unpublished_ = static_cast<uint16_t>(unpublished_ + entries);
  next_used_.Forward(entries, size());
}

void PackedQueue::PutUsed(const Chain& chain, uint32_t written) {
  if (!options_.in_order) {
    WriteUsed(chain.id_, written, chain.entries_);
    return;
  }
  InOrder& entry = in_order_[chain.order_];
  entry.returned = true;
  entry.complete = written == chain.writable_bytes();
  entry.written = written;
}

// 2.8.9: one used descriptor tells of a batch, at the place of its first chain and with the id of
// its last. The driver takes all but the last for used completely, so those must be.
void PackedQueue::UseInOrder() {
  while (in_order_count_ > 0 && in_order_[in_order_first_].returned) {
    uint16_t entries = 0;
    const InOrder* last;
    bool more;
    do {
      last = &in_order_[in_order_first_];
      entries = static_cast<uint16_t>(entries + last->entries);
      in_order_first_ = NextSlot(in_order_first_);
      --in_order_count_;
      more = last->complete && in_order_count_ > 0 && in_order_[in_order_first_].returned;
    } while (more);
    WriteUsed(last->id, last->written, entries);
  }
}

void PackedQueue::Flush() {
  if (!broken_.ok()) return;
  if (options_.in_order) UseInOrder();
  if (unpublished_ == 0) return;
  // Release: a driver that sees these flags sees the data, and the used descriptors behind.
  StoreWord<uint64_t>(At(first_offset_) + kLastHalf, first_half_, std::memory_order_release);
  taken_ = static_cast<uint16_t>(taken_ - unpublished_);
  unsignalled_ = std::min<uint32_t>(unsignalled_ + unpublished_, size());
  published_ += unpublished_;
  unpublished_ = 0;
}

// ---- Suppression -------------------------------------------------------------------------------

void PackedQueue::SetKickFlags(uint16_t flags) {
  if (kick_flags_ == flags) return;
  kick_flags_ = flags;
  // Release: the driver that sees the flags sees the offset that they speak of.
  StoreWord<uint16_t>(device_event_ + offsetof(PackedEvent, flags), flags,
                      std::memory_order_release);
}

void PackedQueue::DisableKicks() {
  if (broken_.ok()) SetKickFlags(kPackedEventDisable);
}

bool PackedQueue::EnableKicks() {
  Flush();
  if (!broken_.ok()) return false;
  if (options_.event_idx) {
    StoreWord<uint16_t>(device_event_ + offsetof(PackedEvent, off_wrap), next_avail_.encoded(),
                        std::memory_order_relaxed);
    SetKickFlags(kPackedEventDesc);
  } else {
    SetKickFlags(kPackedEventEnable);
  }
  // Either the driver's next descriptor is seen below, or the driver sees that it has to kick: its
  // own barrier stands between making it available and looking at the event area.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  uint16_t flags;
  return IsAvailable(next_avail_, flags);
}

bool PackedQueue::CallWanted() {
  if (unsignalled_ == 0) return false;
  // Either the driver sees the used descriptors, or we see that it wants an interrupt for them.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint32_t entries = std::exchange(unsignalled_, 0);
  const auto event =
      std::bit_cast<PackedEvent>(LoadWord<uint32_t>(driver_event_, std::memory_order_relaxed));
  if (event.flags == kPackedEventDisable) return false;
  if (event.flags != kPackedEventDesc || !options_.event_idx) return true;
  const Place wanted = Decode(event.off_wrap);
  return Passed(wanted.offset, wanted.wrap, next_used_.offset, next_used_.wrap, entries, size());
}

}  // namespace vhost::inprocess

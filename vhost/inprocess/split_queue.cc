// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/split_queue.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"

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

uint16_t Load(const std::byte* address, std::memory_order order) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(const_cast<std::byte*>(address)))
      .load(order);
}

template <typename Word>
void Store(std::byte* address, Word value, std::memory_order order) {
  std::atomic_ref<Word>(*reinterpret_cast<Word*>(address)).store(value, order);
}

// Ring indices run modulo 2^16 and are taken modulo the ring's size to find an entry.
constexpr uint16_t Distance(uint16_t from, uint16_t to) { return static_cast<uint16_t>(to - from); }

// virtio 1.3, 2.7.10: whether moving an index from `before` to `now` passed `event`.
constexpr bool Passed(uint16_t event, uint16_t before, uint16_t now) {
  return Distance(event, static_cast<uint16_t>(now - 1)) < Distance(before, now);
}
static_assert(Passed(5, 5, 6) && !Passed(6, 5, 6) && !Passed(4, 5, 6));
static_assert(Passed(0xffff, 0xfffe, 1) && Passed(0, 0xfffe, 1) && !Passed(1, 0xfffe, 1));

}  // namespace

// ---- DescChain ---------------------------------------------------------------------------------

DescChain::DescChain(DescChain&& other) noexcept { *this = std::move(other); }

DescChain& DescChain::operator=(DescChain&& other) noexcept {
  if (this == &other) return *this;
  Return(0);
  queue_ = std::exchange(other.queue_, nullptr);
  head_ = other.head_;
  segments_ = std::move(other.segments_);
  readable_count_ = std::exchange(other.readable_count_, 0);
  readable_bytes_ = std::exchange(other.readable_bytes_, 0);
  writable_bytes_ = std::exchange(other.writable_bytes_, 0);
  return *this;
}

DescChain::~DescChain() { Return(0); }

void DescChain::Return(uint32_t written) {
  SplitQueue* queue = std::exchange(queue_, nullptr);
  if (queue == nullptr) return;
  const uint64_t most = std::min<uint64_t>(writable_bytes_, UINT32_MAX);
  queue->PutUsed(head_, static_cast<uint32_t>(std::min<uint64_t>(written, most)));
}

template <typename Bytes, typename Copy>
absl::Status DescChain::ForEachPiece(std::span<const Segment> segments, uint64_t offset,
                                     Bytes bytes, Copy copy) {
  for (const Segment& segment : segments) {
    if (bytes.empty()) break;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const size_t piece = std::min<uint64_t>(bytes.size(), segment.length - offset);
    if (absl::Status status = copy(segment.address + offset, bytes.first(piece)); !status.ok()) {
      return status;
    }
    bytes = bytes.subspan(piece);
    offset = 0;
  }
  return absl::OkStatus();
}

absl::Status DescChain::Read(uint64_t offset, std::span<std::byte> to) const {
  if (queue_ == nullptr || offset > readable_bytes_ || to.size() > readable_bytes_ - offset) {
    return absl::OutOfRangeError(absl::StrFormat("%d bytes at %d of a chain with %d to read",
                                                 to.size(), offset, readable_bytes_));
  }
  return ForEachPiece(readable(), offset, to,
                      [this](GuestAddress address, std::span<std::byte> piece) {
                        return queue_->memory_->Read(address, piece);
                      });
}

absl::Status DescChain::Write(uint64_t offset, std::span<const std::byte> from) {
  if (queue_ == nullptr || offset > writable_bytes_ || from.size() > writable_bytes_ - offset) {
    return absl::OutOfRangeError(absl::StrFormat("%d bytes at %d of a chain with %d to write",
                                                 from.size(), offset, writable_bytes_));
  }
  return ForEachPiece(writable(), offset, from,
                      [this](GuestAddress address, std::span<const std::byte> piece) {
                        return queue_->memory_->Write(address, piece);
                      });
}

// ---- SplitQueue --------------------------------------------------------------------------------

SplitQueue::SplitQueue(kernel_abi::Kernel& kernel, const Vring& vring, uint16_t base,
                       const Options& options, std::shared_ptr<const MemoryTable> memory,
                       int call_fd)
    : kernel_(kernel),
      vring_(vring),
      options_(options),
      memory_(std::move(memory)),
      call_fd_(call_fd),
      next_avail_(base),
      // The one time that used->idx is read: another server may have filled entries before us.
      used_(Load(vring.device() + kIndex, std::memory_order_relaxed)),
      signalled_used_(used_) {
  // Flags that a server before us left would silence the driver for ever.
  Store<uint16_t>(vring_.device() + kFlags, 0, std::memory_order_relaxed);
}

absl::Status SplitQueue::Break(absl::Status why) {
  broken_ = std::move(why);
  return broken_;
}

absl::StatusOr<std::optional<DescChain>> SplitQueue::Take() {
  if (!broken_.ok()) return broken_;
  // Acquire: what the driver wrote before it moved the index (entry, descriptors, data) is seen.
  const uint16_t avail = Load(vring_.driver() + kIndex, std::memory_order_acquire);
  const uint16_t waiting = Distance(next_avail_, avail);
  if (waiting == 0) return std::nullopt;
  // A driver cannot have more chains under way than the ring has entries.
  if (waiting + in_flight_ > vring_.size()) {
    return Break(absl::InvalidArgumentError(absl::StrFormat(
        "available index %d is %d entries ahead of %d, in a ring of %d with %d in flight", avail,
        waiting, next_avail_, vring_.size(), in_flight_)));
  }
  const uint16_t slot = next_avail_ % vring_.size();
  const uint16_t head =
      Load(vring_.driver() + kEntries + 2 * size_t{slot}, std::memory_order_relaxed);
  absl::StatusOr<DescChain> chain = WalkChain(head);
  if (!chain.ok()) {
    return Break(kernel_abi::AddContext(
        chain.status(), absl::StrFormat("available entry %d (head %d)", next_avail_, head)));
  }
  chain->queue_ = this;  // From here on there is something to return.
  ++next_avail_;
  ++in_flight_;
  return std::optional<DescChain>(*std::move(chain));
}

SplitQueue::Desc SplitQueue::RingDesc(uint16_t index) const {
  // Two loads of 8 bytes: the table is aligned to 16, and nothing between them is checked before
  // both are copied.
  uint64_t* words = reinterpret_cast<uint64_t*>(vring_.desc() + sizeof(VirtqDesc) * size_t{index});
  const std::array<uint64_t, 2> copy = {
      std::atomic_ref<uint64_t>(words[0]).load(std::memory_order_relaxed),
      std::atomic_ref<uint64_t>(words[1]).load(std::memory_order_relaxed)};
  const VirtqDesc desc = std::bit_cast<VirtqDesc>(copy);
  return {.address = desc.addr, .length = desc.len, .flags = desc.flags, .next = desc.next};
}

// A table of descriptors that is being walked: the ring's own, or an indirect one.
struct SplitQueue::Walk {
  std::optional<GuestAddress> indirect;  // nullopt: the ring's table
  uint32_t entries;                      // in the table
  uint32_t next;                         // to look at
  uint32_t count = 0;                    // descriptors seen in the chain so far
};

absl::StatusOr<DescChain> SplitQueue::WalkChain(uint16_t head) {
  DescChain chain(nullptr, head);
  Walk walk{.indirect = std::nullopt, .entries = vring_.size(), .next = head};
  if (absl::Status status = WalkTable(walk, chain); !status.ok()) return status;
  return chain;
}

absl::Status SplitQueue::WalkTable(Walk& walk, DescChain& chain) {
  while (true) {
    if (walk.next >= walk.entries) {
      return absl::InvalidArgumentError(
          absl::StrFormat("descriptor %d in a table of %d", walk.next, walk.entries));
    }
    // Also what ends a cycle (virtio 1.3, 2.7.5.3.1: no chain is longer than the queue).
    if (++walk.count > vring_.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("more than %d descriptors in a chain", vring_.size()));
    }
    Desc desc{};
    if (walk.indirect.has_value()) {
      VirtqDesc copy;
      const GuestAddress at = *walk.indirect + sizeof(VirtqDesc) * uint64_t{walk.next};
      absl::Status status = memory_->Read(at, std::as_writable_bytes(std::span(&copy, 1)));
      if (!status.ok()) return kernel_abi::AddContext(status, "indirect table");
      desc = {.address = copy.addr, .length = copy.len, .flags = copy.flags, .next = copy.next};
    } else {
      desc = RingDesc(static_cast<uint16_t>(walk.next));
    }
    if ((desc.flags & kDescFIndirect) != 0) {
      // Its F_WRITE is ignored (2.7.5.3.2). It does not count as a descriptor of the chain.
      const char* wrong = nullptr;
      if (!options_.indirect_desc) {
        wrong = "an indirect descriptor, which was not negotiated";
      } else if (walk.indirect.has_value()) {
        wrong = "an indirect descriptor in an indirect table";
      } else if ((desc.flags & kDescFNext) != 0) {
        wrong = "an indirect descriptor with a next one";
      } else if (desc.length == 0 || desc.length % sizeof(VirtqDesc) != 0) {
        wrong = "an indirect table that is no whole number of descriptors long";
      }
      if (wrong != nullptr) return absl::InvalidArgumentError(wrong);
      walk = {.indirect = GuestAddress{desc.address},
              .entries = static_cast<uint32_t>(desc.length / sizeof(VirtqDesc)),
              .next = 0,
              .count = walk.count - 1};
      continue;
    }
    if (absl::Status status = AddSegment(desc, chain); !status.ok()) return status;
    if ((desc.flags & kDescFNext) == 0) return absl::OkStatus();
    walk.next = desc.next;
  }
}

absl::Status SplitQueue::AddSegment(const Desc& desc, DescChain& chain) const {
  const bool writable = (desc.flags & kDescFWrite) != 0;
  if (!writable && chain.segments_.size() > chain.readable_count_) {
    return absl::InvalidArgumentError("a readable descriptor after a writable one");
  }
  if (desc.length == 0) return absl::InvalidArgumentError("a descriptor of 0 bytes");
  if (!memory_->Contains(GuestAddress{desc.address}, desc.length)) {
    return absl::OutOfRangeError(absl::StrFormat(
        "%d bytes at guest address %#x are not in guest memory", desc.length, desc.address));
  }
  uint64_t& bytes = writable ? chain.writable_bytes_ : chain.readable_bytes_;
  bytes += desc.length;
  // virtio 1.3, 2.7.5.2: no chain has more than 2^32 bytes. The used length could not tell.
  if (chain.readable_bytes_ + chain.writable_bytes_ > (uint64_t{1} << 32)) {
    return absl::InvalidArgumentError("a chain of more than 2^32 bytes");
  }
  chain.segments_.push_back({GuestAddress{desc.address}, desc.length});
  if (!writable) ++chain.readable_count_;
  return absl::OkStatus();
}

void SplitQueue::PutUsed(uint16_t head, uint32_t written) {
  --in_flight_;
  if (!broken_.ok()) return;
  const size_t slot = used_ % vring_.size();
  std::byte* entry = vring_.device() + kEntries + sizeof(VirtqUsedElem) * slot;
  Store<uint32_t>(entry, head, std::memory_order_relaxed);
  Store<uint32_t>(entry + 4, written, std::memory_order_relaxed);
  // Release: a driver that sees the index sees the entry and the data. Pairs with its own acquire.
  Store<uint16_t>(vring_.device() + kIndex, ++used_, std::memory_order_release);
}

void SplitQueue::DisableKicks() {
  // With EVENT_IDX there is nothing to write: avail_event stays behind, and is not passed again
  // until EnableKicks() moves it (used->flags is ignored then, 2.7.10.2).
  if (options_.event_idx || !broken_.ok()) return;
  Store<uint16_t>(vring_.device() + kFlags, kUsedFNoNotify, std::memory_order_relaxed);
}

bool SplitQueue::EnableKicks() {
  if (!broken_.ok()) return false;
  if (options_.event_idx) {
    Store<uint16_t>(vring_.device() + kEntries + sizeof(VirtqUsedElem) * vring_.size(), next_avail_,
                    std::memory_order_relaxed);
  } else {
    Store<uint16_t>(vring_.device() + kFlags, 0, std::memory_order_relaxed);
  }
  // Either the driver's next index is seen below, or the driver sees that it has to kick: its own
  // barrier stands between moving the index and looking at the flag or the event word.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return Load(vring_.driver() + kIndex, std::memory_order_relaxed) != next_avail_;
}

void SplitQueue::SignalUsed() {
  if (used_ == signalled_used_ || !broken_.ok()) return;
  // Either the driver sees the used index, or we see that it wants an interrupt for it.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  bool wanted;
  if (options_.event_idx) {
    const uint16_t event =
        Load(vring_.driver() + kEntries + 2 * size_t{vring_.size()}, std::memory_order_relaxed);
    wanted = Passed(event, signalled_used_, used_);
  } else {
    const uint16_t flags = Load(vring_.driver() + kFlags, std::memory_order_relaxed);
    wanted = (flags & kAvailFNoInterrupt) == 0;
  }
  signalled_used_ = used_;
  if (wanted) SignalAlways();
}

void SplitQueue::SignalAlways() {
  if (call_fd_ >= 0) kernel_abi::EventFd::SignalEventFd(kernel_, call_fd_);
}

}  // namespace vhost::inprocess

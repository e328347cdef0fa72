// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/virtqueue.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/virtio.h"
#include "vhost/inprocess/packed_queue.h"
#include "vhost/inprocess/split_queue.h"

namespace vhost::inprocess {
namespace {

// Calls `copy(host, piece)` for each piece of `bytes` in `iovecs` from `offset` on.
template <typename Bytes, typename Copy>
void ForEachPiece(std::span<const iovec> iovecs, size_t offset, Bytes bytes, Copy copy) {
  for (const iovec& one : iovecs) {
    if (bytes.empty()) return;
    if (offset >= one.iov_len) {
      offset -= one.iov_len;
      continue;
    }
    const size_t piece = std::min(bytes.size(), one.iov_len - offset);
    copy(static_cast<std::byte*>(one.iov_base) + offset, bytes.first(piece));
    bytes = bytes.subspan(piece);
    offset = 0;
  }
}

absl::Status TooShort(size_t bytes, size_t offset, size_t there_are, const char* what) {
  return absl::OutOfRangeError(
      absl::StrFormat("%d bytes at %d of a chain with %d to %s", bytes, offset, there_are, what));
}

}  // namespace

// ---- Chain -------------------------------------------------------------------------------------

void Chain::Return(uint32_t written) {
  if (Virtqueue* queue = std::exchange(queue_, nullptr); queue != nullptr) {
    queue->ReturnChain(*this, written);
  }
}

absl::Status Chain::Read(size_t offset, std::span<std::byte> to) const {
  if (queue_ == nullptr || offset > readable_bytes_ || to.size() > readable_bytes_ - offset) {
    return TooShort(to.size(), offset, readable_bytes_, "read");
  }
  ForEachPiece(readable(), offset, to, [](const std::byte* host, std::span<std::byte> piece) {
    std::memcpy(piece.data(), host, piece.size());
  });
  return absl::OkStatus();
}

absl::Status Chain::Write(size_t offset, std::span<const std::byte> from) const {
  if (queue_ == nullptr || offset > writable_bytes_ || from.size() > writable_bytes_ - offset) {
    return TooShort(from.size(), offset, writable_bytes_, "write");
  }
  ForEachPiece(writable(), offset, from, [](std::byte* host, std::span<const std::byte> piece) {
    std::memcpy(host, piece.data(), piece.size());
  });
  return absl::OkStatus();
}

// ---- Virtqueue ---------------------------------------------------------------------------------

std::unique_ptr<Virtqueue> Virtqueue::Create(kernel_abi::Kernel& kernel, const Vring& vring,
                                             VringBase base, VirtioFeatures acked,
                                             std::shared_ptr<const MemoryTable> memory,
                                             int call_fd) {
  const Options options{.event_idx = acked.Has(VirtioFeature::kEventIdx),
                        .indirect_desc = acked.Has(VirtioFeature::kIndirectDesc),
                        .in_order = acked.Has(VirtioFeature::kInOrder)};
  const bool packed = acked.Has(VirtioFeature::kRingPacked);
  std::unique_ptr<Virtqueue> queue;
  if (vring.layout() == VringLayout::kPacked) {
    queue = std::make_unique<PackedQueue>(kernel, vring, base, options, std::move(memory), call_fd);
  } else {
    queue = std::make_unique<SplitQueue>(kernel, vring, base, options, std::move(memory), call_fd);
  }
  if (packed != (vring.layout() == VringLayout::kPacked)) {
    queue->Break(absl::InvalidArgumentError("VIRTIO_F_RING_PACKED and the ring's layout differ"));
  }
  return queue;
}

Virtqueue::Virtqueue(kernel_abi::Kernel& kernel, const Vring& vring, const Options& options,
                     std::shared_ptr<const MemoryTable> memory, int call_fd)
    : kernel_(kernel),
      vring_(vring),
      options_(options),
      data_regions_(memory),
      table_regions_(std::move(memory)),
      call_fd_(call_fd) {}

bool Virtqueue::Break(absl::Status why) {
  if (broken_.ok()) broken_ = std::move(why);
  return false;
}

bool Virtqueue::BreakDirection() {
  return Break(absl::InvalidArgumentError("a readable descriptor after a writable one"));
}

bool Virtqueue::AppendSlowly(Building& building, uint64_t address, uint32_t length) {
  if (length == 0) return Break(absl::InvalidArgumentError("a descriptor of 0 bytes"));
  // virtio 1.3, 2.7.5.2: no chain has more than 2^32 bytes. The used length could not tell.
  if (building.bytes + length > kMaxChainBytes) {
    return Break(absl::InvalidArgumentError("a chain of more than 2^32 bytes"));
  }
  // A buffer may lie in several regions that are neighbours in the guest and not here.
  uint64_t left = length;
  for (uint64_t at = address; left > 0;) {
    uint64_t available = 0;
    std::byte* host = data_regions_.Find(at, available);
    if (host == nullptr) {
      return Break(absl::OutOfRangeError(absl::StrFormat(
          "%d bytes at guest address %#x are not in guest memory", length, address)));
    }
    if (building.count >= vring_.size() + kMaxExtraPieces) {
      return Break(absl::InvalidArgumentError("a chain that lies in too many memory regions"));
    }
    if (building.count == building.capacity) {
      building.iovecs = pool_.Grow(building.slot, building.count);
      building.capacity = pool_.capacity(building.slot);
    }
    const uint64_t piece = std::min(left, available);
    building.iovecs[building.count++] = {host, piece};
    at += piece;
    left -= piece;
    // An address that wraps is in no region, unless there is one at 0.
    if (left > 0 && at < address) {
      return Break(absl::OutOfRangeError(absl::StrFormat(
          "%d bytes at guest address %#x are not in guest memory", length, address)));
    }
  }
  return true;
}

bool Virtqueue::OpenTable(uint64_t address, uint32_t bytes, IndirectTable& table) {
  constexpr uint32_t kDescBytes = sizeof(kernel_abi::VirtqDesc);
  if (bytes == 0 || bytes % kDescBytes != 0) [[unlikely]] {
    return Break(absl::InvalidArgumentError(
        absl::StrFormat("an indirect table of %d bytes is no whole number of descriptors", bytes)));
  }
  uint64_t available = 0;
  std::byte* host = table_regions_.Find(address, available);
  table = {.host = host, .address = address, .count = bytes / kDescBytes};
  if (host != nullptr && bytes <= available) [[likely]]
    return true;
  table.host = nullptr;
  if (table_regions_.table().Contains(GuestAddress{address}, bytes)) return true;
  return Break(absl::OutOfRangeError(absl::StrFormat(
      "indirect table: %d bytes at guest address %#x are not in guest memory", bytes, address)));
}

std::array<std::byte, 16> Virtqueue::CopyScattered(uint64_t address) {
  std::array<std::byte, 16> copy{};
  for (size_t i = 0; i < copy.size(); ++i) {
    uint64_t available = 0;
    const std::byte* host = table_regions_.Find(address + i, available);
    if (host != nullptr) copy[i] = LoadWord<std::byte>(host, std::memory_order_relaxed);
  }
  return copy;
}

void Virtqueue::ReturnChain(Chain& chain, uint32_t written) {
  --in_flight_;
  pool_.Release(chain.slot_);
  if (!broken_.ok()) [[unlikely]]
    return;
  PutUsed(chain, written < chain.writable_bytes_
                     ? written
                     : static_cast<uint32_t>(std::min<size_t>(chain.writable_bytes_, UINT32_MAX)));
}

void Virtqueue::PutBack(Chain chain) {
  if (!chain.held()) return;
  chain.queue_ = nullptr;
  --in_flight_;
  pool_.Release(chain.slot_);
  if (broken_.ok() && !UndoTake(chain)) {
    Break(absl::InternalError("a chain was put back that was not the one taken last"));
  }
}

bool Virtqueue::SignalUsed() {
  Flush();
  if (!broken_.ok() || !CallWanted()) return false;
  SignalAlways();
  return call_fd_ >= 0;
}

void Virtqueue::SignalAlways() {
  if (call_fd_ >= 0) kernel_abi::EventFd::SignalEventFd(kernel_, call_fd_);
}

void Virtqueue::SetMemory(std::shared_ptr<const MemoryTable> memory) {
  data_regions_.SetMemory(memory);
  table_regions_.SetMemory(std::move(memory));
}

}  // namespace vhost::inprocess

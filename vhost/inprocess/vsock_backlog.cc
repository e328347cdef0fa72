// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_backlog.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace vhost::inprocess {
namespace {

constexpr uint32_t kSmallestRing = 4096;

}  // namespace

void VsockBacklog::Reserve(uint32_t bytes) {
  if (bytes <= capacity_) return;
  const uint32_t capacity = std::max(kSmallestRing, std::bit_ceil(bytes));
  auto ring = std::make_unique_for_overwrite<std::byte[]>(capacity);
  uint32_t copied = 0;
  for (const iovec& piece : Front(bytes_)) {
    if (piece.iov_len == 0) continue;
    memcpy(ring.get() + copied, piece.iov_base, piece.iov_len);
    copied += static_cast<uint32_t>(piece.iov_len);
  }
  ring_ = std::move(ring);
  capacity_ = capacity;
  begin_ = 0;
}

void VsockBacklog::Append(std::span<const iovec> pieces) {
  size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  Reserve(bytes_ + static_cast<uint32_t>(bytes));
  for (const iovec& piece : pieces) {
    const std::byte* from = static_cast<const std::byte*>(piece.iov_base);
    uint32_t left = static_cast<uint32_t>(piece.iov_len);
    while (left > 0) {
      const uint32_t at = (begin_ + bytes_) & (capacity_ - 1);
      const uint32_t part = std::min(left, capacity_ - at);
      memcpy(ring_.get() + at, from, part);
      from += part;
      left -= part;
      bytes_ += part;
    }
  }
  open_bytes_ += static_cast<uint32_t>(bytes);
}

void VsockBacklog::EndMessage() {
  messages_.push_back(open_bytes_);
  open_bytes_ = 0;
}

std::array<iovec, 2> VsockBacklog::Front(uint32_t bytes) const {
  if (bytes == 0) return {};
  const uint32_t first = std::min(bytes, capacity_ - begin_);
  return {{{ring_.get() + begin_, first}, {ring_.get(), bytes - first}}};
}

void VsockBacklog::Consume(uint32_t bytes) {
  begin_ = (begin_ + bytes) & (capacity_ - 1);
  bytes_ -= bytes;
  if (!messages_.empty()) {
    messages_.pop_front();
  } else {
    open_bytes_ -= bytes;
  }
  if (bytes_ == 0) Clear();
}

void VsockBacklog::Clear() {
  ring_.reset();
  capacity_ = begin_ = bytes_ = open_bytes_ = 0;
  messages_.clear();
  messages_.shrink_to_fit();
}

}  // namespace vhost::inprocess

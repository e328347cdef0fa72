// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>

namespace vhost::inprocess {

inline iovec Piece(const void* at, size_t bytes) { return {const_cast<void*>(at), bytes}; }

// Copies the pieces of `from` behind the first `skip` bytes; how many there are. More than `room`:
// they do not fit.
inline size_t SkipBytes(std::span<const iovec> from, size_t skip, iovec* to, size_t room) {
  size_t count = 0;
  for (const iovec& piece : from) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    if (count == room) return room + 1;
    to[count++] = Piece(static_cast<const std::byte*>(piece.iov_base) + skip, piece.iov_len - skip);
    skip = 0;
  }
  return count;
}

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The checksum of IP, TCP and UDP (RFC 1071). Sums are of 16-bit words as they lie in memory: a
// folded sum is stored as it is, whatever the machine's byte order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace vhost::inprocess {

// One's complement addition.
inline uint64_t AddSums(uint64_t a, uint64_t b) {
  uint64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? sum + 1 : sum;
}

// Of bytes that begin at an even offset of what is summed; an odd last byte is padded with zero.
inline uint64_t SumOf(const void* bytes, size_t size) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  uint64_t sum = 0;
  for (; size >= 8; at += 8, size -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    sum = AddSums(sum, word);
  }
  if (size > 0) {
    uint64_t word = 0;
    std::memcpy(&word, at, size);
    sum = AddSums(sum, word);
  }
  return sum;
}

inline uint16_t FoldSum(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>((sum & 0xffff) + (sum >> 16));
}

// What bytes that were summed as if they began at an even offset add when they begin at an odd one.
inline uint64_t SwapSum(uint64_t sum) { return __builtin_bswap16(FoldSum(sum)); }

// A number in the byte order of the network, as a summand.
inline uint16_t NetworkOrder(uint16_t value) { return __builtin_bswap16(value); }

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace kernel_abi {

// The name of one bit of a word.
struct BitName {
  unsigned bit;
  const char* name;
};

// `0x130000000 (RING_INDIRECT_DESC RING_EVENT_IDX VERSION_1)`; a bit that has no name shows as
// `bit7`. `first_bit` is the number of the word's lowest bit, for words of a longer array.
std::string DescribeBits(uint64_t word, std::span<const BitName> names, unsigned first_bit = 0);

// The names alone, in the order of the bits, divided by `divider`; empty for 0.
std::string BitNames(uint64_t word, std::span<const BitName> names, const char* divider,
                     unsigned first_bit = 0);

}  // namespace kernel_abi

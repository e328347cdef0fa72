// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Words of guest memory that a driver on another CPU reads and writes at the same time. Each access
// is atomic and done once: what was loaded is a copy, whatever the guest writes meanwhile.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vhost::inprocess {

// `address` must be aligned to the word's size.
template <typename Word>
Word LoadWord(const std::byte* address, std::memory_order order) {
  return std::atomic_ref<Word>(*reinterpret_cast<Word*>(const_cast<std::byte*>(address)))
      .load(order);
}

template <typename Word>
void StoreWord(std::byte* address, Word value, std::memory_order order) {
  std::atomic_ref<Word>(*reinterpret_cast<Word*>(address)).store(value, order);
}

// Only an indirect table need not be aligned: virtio aligns everything else.
template <typename Descriptor>
[[gnu::noinline]] Descriptor CopyUnaligned(const std::byte* address) {
  std::array<std::byte, 16> copy;
  for (size_t i = 0; i < copy.size(); ++i) {
    copy[i] = LoadWord<std::byte>(address + i, std::memory_order_relaxed);
  }
  return std::bit_cast<Descriptor>(copy);
}

// A copy of a descriptor of 16 bytes. Its fields may be of different moments, but each is read once
// and nothing is looked at before all of it was copied.
template <typename Descriptor>
[[gnu::always_inline]] inline Descriptor CopyDescriptor(const std::byte* address) {
  static_assert(sizeof(Descriptor) == 16);
  if (reinterpret_cast<uintptr_t>(address) % alignof(uint64_t) == 0) [[likely]] {
    const std::array<uint64_t, 2> copy = {
        LoadWord<uint64_t>(address, std::memory_order_relaxed),
        LoadWord<uint64_t>(address + 8, std::memory_order_relaxed)};
    return std::bit_cast<Descriptor>(copy);
  }
  return CopyUnaligned<Descriptor>(address);
}

}  // namespace vhost::inprocess

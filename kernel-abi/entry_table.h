// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A header and the entries behind it, as the kernel takes memory tables, IRQ routes, MSRs and CPUID
// leaves: a u32 that counts, a u32 of flags or padding, then the entries. The C headers say this
// with a flexible array, which C++ gives another size than C does where it hides in a union (so
// even some ioctl numbers come out wrong: kvm.h). This type owns the whole, with entries that are
// read and written in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

namespace kernel_abi {

template <typename Entry>
class EntryTable {
 public:
  static_assert(std::is_trivially_copyable_v<Entry> && alignof(Entry) <= 8);

  EntryTable() : EntryTable(0) {}
  // `count` entries, all zero.
  explicit EntryTable(size_t count) : bytes_(kHeaderSize + count * sizeof(Entry)) {
    StoreCount(count);
  }
  explicit EntryTable(std::span<const Entry> entries) : EntryTable(entries.size()) {
    if (!entries.empty())
      std::memcpy(bytes_.data() + kHeaderSize, entries.data(), entries.size_bytes());
  }
  EntryTable(std::initializer_list<Entry> entries)
      : EntryTable(std::span<const Entry>(entries.begin(), entries.size())) {}

  void Append(const Entry& entry) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(Entry));
    std::memcpy(bytes_.data() + at, &entry, sizeof(Entry));
    StoreCount(entries().size());
  }

  std::span<Entry> entries() { return {FirstEntry(bytes_.data()), capacity()}; }
  std::span<const Entry> entries() const {
    return {FirstEntry(const_cast<std::byte*>(bytes_.data())), capacity()};
  }

  // The second word of the header: `flags` or `padding`.
  uint32_t flags() const { return Load(sizeof(uint32_t)); }
  void set_flags(uint32_t flags) { Store(sizeof(uint32_t), flags); }

  // What the count says now: the kernel lowers it where it had less to tell than there was room
  // for.
  uint32_t count() const { return Load(0); }
  // Drops the entries that the kernel did not fill.
  void TrimToCount() {
    if (count() < capacity()) bytes_.resize(kHeaderSize + count() * sizeof(Entry));
  }

  // What a request takes (see Call() in request.h).
  void* kernel_argument() const { return const_cast<std::byte*>(bytes_.data()); }

 private:
  static constexpr size_t kHeaderSize = 2 * sizeof(uint32_t);

  static Entry* FirstEntry(std::byte* bytes) {
    return std::launder(reinterpret_cast<Entry*>(bytes + kHeaderSize));
  }
  size_t capacity() const { return (bytes_.size() - kHeaderSize) / sizeof(Entry); }
  uint32_t Load(size_t offset) const {
    uint32_t value = 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof(value));
    return value;
  }
  void Store(size_t offset, uint32_t value) {
    std::memcpy(bytes_.data() + offset, &value, sizeof(value));
  }
  void StoreCount(size_t count) { Store(0, static_cast<uint32_t>(count)); }

  // Bytes of the default allocator are aligned for every entry type here.
  std::vector<std::byte> bytes_;
};

}  // namespace kernel_abi

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <utility>

#include "vhost/guest_memory.h"

namespace vhost::inprocess {

// Translates addresses by a memory table, remembering the region of the last hit: buffers come from
// few regions, and most checks end with two comparisons. One thread at a time.
class RegionCache {
 public:
  explicit RegionCache(std::shared_ptr<const MemoryTable> table) { SetMemory(std::move(table)); }

  void SetMemory(std::shared_ptr<const MemoryTable> table) {
    table_ = std::move(table);
    start_ = size_ = 0;
    host_ = nullptr;
  }

  const MemoryTable& table() const { return *table_; }

  // The host address of `address`, and in `available` how many bytes from there on are mapped in
  // one piece (at least 1). nullptr: not guest memory.
  std::byte* Find(uint64_t address, uint64_t& available) {
    uint64_t offset = address - start_;
    if (offset >= size_) [[unlikely]] {
      if (!Look(address)) return nullptr;
      offset = address - start_;
    }
    available = size_ - offset;
    return host_ + offset;
  }

 private:
  bool Look(uint64_t address) {
    const std::span<const MemoryRegion> regions = table_->merged();
    auto after = std::upper_bound(
        regions.begin(), regions.end(), address,
        [](uint64_t wanted, const MemoryRegion& region) { return wanted < Value(region.start); });
    if (after == regions.begin()) return false;
    const MemoryRegion& region = *std::prev(after);
    if (address - Value(region.start) >= region.size) return false;
    start_ = Value(region.start);
    size_ = region.size;
    host_ = region.host;
    return true;
  }

  std::shared_ptr<const MemoryTable> table_;
  uint64_t start_ = 0;
  uint64_t size_ = 0;
  std::byte* host_ = nullptr;
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace vhost::inprocess {

// Where the iovecs of the chains live that a queue has taken: a slot a chain, used again when the
// chain was returned, so that nothing is allocated once a queue has been busy. Slots grow to the
// longest chain that they held; what large ones keep in all is bounded, because a driver chooses
// how long its chains are.
class IovecPool {
 public:
  // The last one given back is the next one given out: its cache lines are warm.
  uint32_t Acquire() {
    if (free_.empty()) [[unlikely]] {
      slots_.push_back({std::make_unique_for_overwrite<iovec[]>(kFirst), kFirst});
      return static_cast<uint32_t>(slots_.size() - 1);
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }

  void Release(uint32_t slot) {
    if (kept_large_ > kKeepLarge && slots_[slot].capacity > kFirst) [[unlikely]] {
      kept_large_ -= slots_[slot].capacity;
      slots_[slot] = {std::make_unique_for_overwrite<iovec[]>(kFirst), kFirst};
    }
    free_.push_back(slot);
  }

  iovec* data(uint32_t slot) const { return slots_[slot].iovecs.get(); }
  uint32_t capacity(uint32_t slot) const { return slots_[slot].capacity; }

  // Makes room for twice as many; the first `used` stay. The slot's address changes.
  iovec* Grow(uint32_t slot, uint32_t used) {
    Slot& old = slots_[slot];
    Slot grown{std::make_unique_for_overwrite<iovec[]>(size_t{old.capacity} * 2), old.capacity * 2};
    std::copy_n(old.iovecs.get(), used, grown.iovecs.get());
    kept_large_ += grown.capacity - (old.capacity > kFirst ? old.capacity : 0);
    old = std::move(grown);
    return old.iovecs.get();
  }

 private:
  static constexpr uint32_t kFirst = 4;
  static constexpr uint64_t kKeepLarge = 2048;  // iovecs: 32 KiB

  struct Slot {
    std::unique_ptr<iovec[]> iovecs;
    uint32_t capacity;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint64_t kept_large_ = 0;  // iovecs in slots that have grown
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A driver that costs as little as one can, for benchmarks: it makes chains that are alike
// available and takes back what was used. One thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/vring.h"

namespace bench {

// A buffer in guest memory, or an indirect table of them.
struct Buffer {
  uint64_t address;
  uint32_t length;
  uint16_t flags;  // kDescFWrite, kDescFIndirect
};

class SplitDriver {
 public:
  static constexpr vhost::VringLayout kLayout = vhost::VringLayout::kSplit;

  // With `in_order` a used entry tells of all chains up to the one that it names.
  SplitDriver(fakes::GuestRam& ram, const vhost::VringSetup& setup, bool in_order)
      : size_(setup.size),
        in_order_(in_order),
        desc_(reinterpret_cast<kernel_abi::VirtqDesc*>(ram.Host(setup.desc))),
        avail_(reinterpret_cast<uint16_t*>(ram.Host(setup.driver))),
        used_(ram.Host(setup.device)) {
    for (uint16_t i = 0; i < size_; ++i) free_.push_back(i);
  }

  bool Add(const Buffer& buffer) {
    if (room_ == 0) return false;
    --room_;
    const uint16_t slot = static_cast<uint16_t>(next_ & (size_ - 1));
    const uint16_t id = in_order_ ? slot : free_[room_];
    desc_[id] = {buffer.address, buffer.length, buffer.flags, 0};
    avail_[2 + slot] = id;
    std::atomic_ref<uint16_t>(avail_[1]).store(++next_, std::memory_order_release);
    return true;
  }

  // How many chains were used since the last time.
  int Reap() {
    const auto index = std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(used_ + 2))
                           .load(std::memory_order_acquire);
    const int chains = static_cast<uint16_t>(index - seen_);
    if (in_order_) {
      while (seen_ != index) {
        const auto* entry = Entry(seen_);
        const auto last = static_cast<uint16_t>(entry->id);
        seen_ = static_cast<uint16_t>(seen_ + ((last - seen_) & (size_ - 1)) + 1);
      }
    } else {
      while (seen_ != index) {
        free_[room_++] = static_cast<uint16_t>(Entry(seen_++)->id);
      }
      return chains;
    }
    room_ += chains;
    return chains;
  }
  int outstanding() const { return size_ - room_; }

 private:
  const kernel_abi::VirtqUsedElem* Entry(uint16_t index) const {
    return reinterpret_cast<const kernel_abi::VirtqUsedElem*>(used_ + 4) + (index & (size_ - 1));
  }

  const uint16_t size_;
  const bool in_order_;
  kernel_abi::VirtqDesc* desc_;
  uint16_t* avail_;
  std::byte* used_;
  std::vector<uint16_t> free_;  // the first room_; last in, first out
  uint16_t next_ = 0;
  uint16_t seen_ = 0;
  int room_ = size_;
};

class PackedDriver {
 public:
  static constexpr vhost::VringLayout kLayout = vhost::VringLayout::kPacked;

  PackedDriver(fakes::GuestRam& ram, const vhost::VringSetup& setup, bool in_order)
      : size_(setup.size),
        in_order_(in_order),
        desc_(reinterpret_cast<kernel_abi::PackedDesc*>(ram.Host(setup.desc))) {
    std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ram.Host(setup.driver + 2)))
        .store(kernel_abi::kPackedEventDisable);
  }

  bool Add(const Buffer& buffer) {
    if (room_ == 0) return false;
    --room_;
    kernel_abi::PackedDesc& desc = desc_[next_];
    desc.addr = buffer.address;
    desc.len = buffer.length;
    desc.id = next_;
    const uint16_t available = wrap_ ? kernel_abi::kPackedDescFAvail : kernel_abi::kPackedDescFUsed;
    std::atomic_ref<uint16_t>(desc.flags)
        .store(static_cast<uint16_t>(buffer.flags | available), std::memory_order_release);
    if (++next_ == size_) {
      next_ = 0;
      wrap_ = !wrap_;
    }
    return true;
  }

  int Reap() {
    constexpr uint16_t kBoth = kernel_abi::kPackedDescFAvail | kernel_abi::kPackedDescFUsed;
    int chains = 0;
    while (room_ + chains < size_) {
      const auto flags =
          std::atomic_ref<uint16_t>(desc_[seen_].flags).load(std::memory_order_acquire);
      if ((flags & kBoth) != (seen_wrap_ ? kBoth : 0)) break;
      int passed = 1;
      if (in_order_) {
        passed = (desc_[seen_].id - seen_ + size_) % size_ + 1;
      } else {
        last_id_ = desc_[seen_].id;
      }
      chains += passed;
      if (seen_ + passed >= size_) seen_wrap_ = !seen_wrap_;
      seen_ = static_cast<uint16_t>((seen_ + passed) % size_);
    }
    room_ += chains;
    return chains;
  }
  int outstanding() const { return size_ - room_; }

 private:
  const uint16_t size_;
  const bool in_order_;
  kernel_abi::PackedDesc* desc_;
  uint16_t next_ = 0;
  bool wrap_ = true;
  uint16_t seen_ = 0;
  bool seen_wrap_ = true;
  uint16_t last_id_ = 0;
  int room_ = size_;
};

}  // namespace bench

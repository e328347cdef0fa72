// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a driver does with the two kinds of ring, for DriverRing. No side checks what it is told:
// that makes them good for hostile drivers too.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/vring.h"

namespace fakes {

class DriverSide {
 public:
  using Desc = kernel_abi::VirtqDesc;  // also of packed rings, without what differs
  struct Published {
    uint16_t id = 0;              // split: index of the head
    std::vector<uint16_t> slots;  // ring entries that the chain takes up
  };
  struct Used {
    uint16_t id;
    uint32_t written;
  };

  DriverSide(GuestRam& ram, const vhost::VringSetup& setup) : ram_(ram), setup_(setup) {}
  virtual ~DriverSide() = default;

  virtual void Forget() = 0;
  // Makes a chain available; only addr, len, and WRITE or INDIRECT of each descriptor count.
  virtual Published Publish(std::vector<Desc> descs) = 0;
  virtual bool KickWanted() = 0;
  // What the device has used at the place where the driver looks next, without going on.
  virtual std::optional<Used> LookAtUsed() = 0;
  // Goes on behind `chains` chains, with `entries` ring entries in all.
  virtual void Advance(size_t chains, size_t entries) = 0;
  virtual void Free(const Published& chain) = 0;
  virtual void WantInterrupts(bool wanted) = 0;
  virtual void WantInterruptAfter(uint16_t event) = 0;

 protected:
  template <typename Word>
  std::atomic_ref<Word> At(vhost::GuestAddress address) const {
    return std::atomic_ref<Word>(*reinterpret_cast<Word*>(ram_.Host(address)));
  }

  GuestRam& ram_;
  const vhost::VringSetup setup_;
};

class SplitDriverSide final : public DriverSide {
 public:
  SplitDriverSide(GuestRam& ram, const vhost::VringSetup& setup, bool event_idx, bool in_order)
      : DriverSide(ram, setup), event_idx_(event_idx), in_order_(in_order) {}

  void Forget() override {
    free_.clear();
    for (uint16_t i = setup_.size; i-- > 0;) free_.push_back(i);
    avail_ = avail_at_last_kick_ = used_ = next_slot_ = 0;
  }

  Published Publish(std::vector<Desc> descs) override {
    if (descs.empty() || descs.size() > free_.size()) std::abort();  // The test's mistake.
    Published chain;
    for (size_t i = 0; i < descs.size(); ++i) {
      // 2.7.9: in order means in ring order.
      chain.slots.push_back(in_order_ ? next_slot_ : free_.back());
      next_slot_ = static_cast<uint16_t>((next_slot_ + 1) % setup_.size);
      free_.pop_back();
    }
    for (size_t i = 0; i < descs.size(); ++i) {
      if (i + 1 < descs.size()) {
        descs[i].flags |= kernel_abi::kDescFNext;
        descs[i].next = chain.slots[i + 1];
      }
      PutDesc(chain.slots[i], descs[i]);
    }
    chain.id = chain.slots.front();
    PutAvailable(chain.id);
    return chain;
  }

  bool KickWanted() override {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t before = std::exchange(avail_at_last_kick_, avail_);
    if (!event_idx_) return (At<uint16_t>(used(0)).load() & kernel_abi::kUsedFNoNotify) == 0;
    const uint16_t event = At<uint16_t>(used(4 + 8 * uint64_t{setup_.size})).load();
    return static_cast<uint16_t>(avail_ - event - 1) < static_cast<uint16_t>(avail_ - before);
  }

  std::optional<Used> LookAtUsed() override {
    if (used_index() == used_) return std::nullopt;
    const vhost::GuestAddress entry = used(4 + 8 * uint64_t(used_ % setup_.size));
    return Used{static_cast<uint16_t>(At<uint32_t>(entry).load()), At<uint32_t>(entry + 4).load()};
  }
  void Advance(size_t chains, size_t) override { used_ = static_cast<uint16_t>(used_ + chains); }
  void Free(const Published& chain) override {
    free_.insert(free_.end(), chain.slots.begin(), chain.slots.end());
  }

  void WantInterrupts(bool wanted) override {
    At<uint16_t>(avail(0)).store(wanted ? 0 : kernel_abi::kAvailFNoInterrupt);
  }
  void WantInterruptAfter(uint16_t event) override {
    At<uint16_t>(avail(4 + 2 * uint64_t{setup_.size})).store(event);
  }

  void PutDesc(uint16_t index, const Desc& desc) {
    uint64_t words[2];
    std::memcpy(words, &desc, sizeof(desc));
    const vhost::GuestAddress at = setup_.desc + sizeof(Desc) * uint64_t{index};
    At<uint64_t>(at).store(words[0], std::memory_order_relaxed);
    At<uint64_t>(at + 8).store(words[1], std::memory_order_relaxed);
  }
  void PutAvailable(uint16_t head) {
    At<uint16_t>(avail(4 + 2 * uint64_t(avail_ % setup_.size))).store(head);
    PutAvailableIndex(static_cast<uint16_t>(avail_ + 1));
  }
  void PutAvailableIndex(uint16_t index) {
    avail_ = index;
    At<uint16_t>(avail(2)).store(index, std::memory_order_release);
  }
  uint16_t available_index() const { return avail_; }
  uint16_t used_index() const { return At<uint16_t>(used(2)).load(std::memory_order_acquire); }
  uint16_t used_flags() const { return At<uint16_t>(used(0)).load(); }

 private:
  vhost::GuestAddress avail(uint64_t offset) const { return setup_.driver + offset; }
  vhost::GuestAddress used(uint64_t offset) const { return setup_.device + offset; }

  const bool event_idx_;
  const bool in_order_;
  std::vector<uint16_t> free_;
  uint16_t next_slot_ = 0;
  uint16_t avail_ = 0;
  uint16_t avail_at_last_kick_ = 0;
  uint16_t used_ = 0;
};

class PackedDriverSide final : public DriverSide {
 public:
  PackedDriverSide(GuestRam& ram, const vhost::VringSetup& setup, bool event_idx)
      : DriverSide(ram, setup), event_idx_(event_idx) {}

  void Forget() override {
    ids_.clear();
    for (uint16_t i = setup_.size; i-- > 0;) ids_.push_back(i);
    room_ = setup_.size;
    next_ = used_ = since_kick_ = 0;
    wrap_ = used_wrap_ = true;
  }

  Published Publish(std::vector<Desc> descs) override {
    if (descs.empty() || descs.size() > room_) std::abort();  // The test's mistake.
    Published chain{.id = ids_.back(), .slots = {}};
    ids_.pop_back();
    const uint16_t first = next_;
    uint16_t first_flags = 0;
    for (size_t i = 0; i < descs.size(); ++i) {
      uint16_t flags = static_cast<uint16_t>(descs[i].flags | (wrap_ ? kAvail : kUsed));
      if (i + 1 < descs.size()) flags |= kernel_abi::kDescFNext;
      if (i == 0) first_flags = flags;
      // The flags of the first come last (2.8.6).
      PutDesc(next_, {descs[i].addr, descs[i].len, chain.id,
                      i == 0 ? Flags(next_).load(std::memory_order_relaxed) : flags});
      chain.slots.push_back(next_);
      Forward(next_, wrap_, 1);
    }
    Flags(first).store(first_flags, std::memory_order_release);
    room_ -= descs.size();
    since_kick_ = static_cast<uint32_t>(since_kick_ + descs.size());
    return chain;
  }

  bool KickWanted() override {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t entries = std::exchange(since_kick_, 0);
    const uint16_t off_wrap = At<uint16_t>(setup_.device).load();
    const uint16_t flags = At<uint16_t>(setup_.device + 2).load();
    if (flags == kernel_abi::kPackedEventDisable) return false;
    if (flags == kernel_abi::kPackedEventEnable || !event_idx_) return true;
    int behind = next_ - (off_wrap & 0x7fff);
    if (((off_wrap & 0x8000) != 0) != wrap_) behind += setup_.size;
    return behind >= 1 && behind <= static_cast<int>(entries);
  }

  std::optional<Used> LookAtUsed() override {
    const uint16_t flags = Flags(used_).load(std::memory_order_acquire);
    const uint16_t wanted = used_wrap_ ? kAvail | kUsed : 0;
    if ((flags & (kAvail | kUsed)) != wanted) return std::nullopt;
    const vhost::GuestAddress at = Desc16(used_);
    return Used{At<uint16_t>(at + 12).load(), At<uint32_t>(at + 8).load()};
  }
  void Advance(size_t, size_t entries) override { Forward(used_, used_wrap_, entries); }
  void Free(const Published& chain) override {
    ids_.push_back(chain.id);
    room_ += chain.slots.size();
  }

  void WantInterrupts(bool wanted) override {
    At<uint16_t>(setup_.driver + 2)
        .store(wanted ? kernel_abi::kPackedEventEnable : kernel_abi::kPackedEventDisable);
  }
  // `event`: an offset, with the wrap counter in bit 15.
  void WantInterruptAfter(uint16_t event) override {
    At<uint16_t>(setup_.driver).store(event);
    At<uint16_t>(setup_.driver + 2).store(kernel_abi::kPackedEventDesc);
  }

  void PutDesc(uint16_t index, const kernel_abi::PackedDesc& desc) {
    uint64_t words[2];
    std::memcpy(words, &desc, sizeof(desc));
    At<uint64_t>(Desc16(index)).store(words[0], std::memory_order_relaxed);
    At<uint64_t>(Desc16(index) + 8).store(words[1], std::memory_order_release);
  }
  // The flags of a descriptor that is available in the first round.
  static constexpr uint16_t kAvail = kernel_abi::kPackedDescFAvail;
  static constexpr uint16_t kUsed = kernel_abi::kPackedDescFUsed;
  uint16_t flags(uint16_t index) const { return Flags(index).load(std::memory_order_acquire); }

 private:
  vhost::GuestAddress Desc16(uint16_t index) const { return setup_.desc + 16 * uint64_t{index}; }
  std::atomic_ref<uint16_t> Flags(uint16_t index) const { return At<uint16_t>(Desc16(index) + 14); }
  void Forward(uint16_t& offset, bool& wrap, size_t entries) const {
    const size_t to = offset + entries;
    if (to >= setup_.size) wrap = !wrap;
    offset = static_cast<uint16_t>(to % setup_.size);
  }

  const bool event_idx_;
  std::vector<uint16_t> ids_;
  size_t room_ = 0;  // free ring entries
  uint16_t next_ = 0;
  bool wrap_ = true;
  uint16_t used_ = 0;
  bool used_wrap_ = true;
  uint32_t since_kick_ = 0;
};

}  // namespace fakes

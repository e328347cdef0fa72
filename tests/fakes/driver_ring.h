// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The driver's side of a split virtqueue, for tests: against the queues of this process, and
// against those of the kernel. It plays a correct driver with the fluent calls,
//
//   ring.Chain().Readable("GET").Writable(512).Publish();
//   if (ring.KickWanted()) ...;
//   std::optional<DriverRing::Used> used = ring.TakeUsed();   // used->data holds what was written
//
// and a hostile one with the Put calls, which write what they are told.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/vring.h"

namespace fakes {

class DriverRing {
 public:
  struct Options {
    uint16_t size = 16;
    bool event_idx = false;
  };
  struct Used {
    uint16_t head = 0;
    uint32_t written = 0;
    std::vector<std::byte> data;  // the first `written` of the chain's writable bytes

    std::string text() const {
      return std::string(reinterpret_cast<const char*>(data.data()), data.size());
    }
  };
  using Desc = kernel_abi::VirtqDesc;

  // Lays out a ring in `ram`, which must outlive it.
  DriverRing(GuestRam& ram, Options options) : ram_(ram), options_(options) {
    const vhost::VringBytes bytes = vhost::BytesOf(vhost::VringLayout::kSplit, options.size);
    setup_ = {.size = options.size,
              .desc = ram.Allocate(bytes.desc, 16),
              .driver = ram.Allocate(bytes.driver, 2),
              .device = ram.Allocate(bytes.device, 4)};
    Forget();
  }

  const vhost::VringSetup& setup() const { return setup_; }

  // Begins anew, as a driver does after a reset: empty rings, all descriptors free.
  void Forget() {
    const vhost::VringBytes bytes = vhost::BytesOf(vhost::VringLayout::kSplit, setup_.size);
    std::memset(ram_.Host(setup_.desc), 0, bytes.desc);
    std::memset(ram_.Host(setup_.driver), 0, bytes.driver);
    std::memset(ram_.Host(setup_.device), 0, bytes.device);
    free_.clear();
    for (uint16_t i = setup_.size; i-- > 0;) free_.push_back(i);
    chains_.clear();
    avail_ = avail_at_last_kick_ = used_ = 0;
  }

  class ChainBuilder {
   public:
    // Bytes for the device to read.
    ChainBuilder&& Readable(std::span<const std::byte> bytes) && {
      const vhost::GuestAddress at = ring_.ram_.Allocate(bytes.size());
      ring_.ram_.Put(at, bytes);
      descs_.push_back({vhost::Value(at), static_cast<uint32_t>(bytes.size()), 0, 0});
      return std::move(*this);
    }
    ChainBuilder&& Readable(absl::string_view text) && {
      return std::move(*this).Readable(std::as_bytes(std::span(text.data(), text.size())));
    }
    // Room for the device to write.
    ChainBuilder&& Writable(uint32_t length) && {
      descs_.push_back(
          {vhost::Value(ring_.ram_.Allocate(length)), length, kernel_abi::kDescFWrite, 0});
      return std::move(*this);
    }
    // Puts all descriptors into a table of their own.
    ChainBuilder&& Indirect() && {
      indirect_ = true;
      return std::move(*this);
    }
    // Makes the chain available and returns its head. The ring must have room.
    uint16_t Publish() && { return ring_.Publish(std::move(descs_), indirect_); }

   private:
    friend class DriverRing;
    explicit ChainBuilder(DriverRing& ring) : ring_(ring) {}
    DriverRing& ring_;
    std::vector<Desc> descs_;
    bool indirect_ = false;
  };
  ChainBuilder Chain() { return ChainBuilder(*this); }

  // Whether the device asked to be told of what was published since the last time this was asked.
  bool KickWanted() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t before = std::exchange(avail_at_last_kick_, avail_);
    if (!options_.event_idx) return (Word(used(0)).load() & kernel_abi::kUsedFNoNotify) == 0;
    const uint16_t event = Word(used(4 + 8 * uint64_t{setup_.size})).load();
    return static_cast<uint16_t>(avail_ - event - 1) < static_cast<uint16_t>(avail_ - before);
  }

  // The next chain that the device has returned.
  std::optional<Used> TakeUsed() {
    if (Word(used(2)).load(std::memory_order_acquire) == used_) return std::nullopt;
    kernel_abi::VirtqUsedElem element;
    std::memcpy(&element, ram_.Host(used(4 + 8 * uint64_t(used_ % setup_.size))), sizeof(element));
    ++used_;
    Used result{.head = static_cast<uint16_t>(element.id), .written = element.len, .data = {}};
    const auto chain = chains_.find(result.head);
    if (chain == chains_.end()) return result;  // Published by hand.
    for (const Desc& desc : chain->second.descs) {
      if ((desc.flags & kernel_abi::kDescFWrite) == 0) continue;
      const std::vector<std::byte> bytes = ram_.Bytes(vhost::GuestAddress{desc.addr}, desc.len);
      result.data.insert(result.data.end(), bytes.begin(), bytes.end());
    }
    if (result.data.size() > result.written) result.data.resize(result.written);
    free_.insert(free_.end(), chain->second.slots.begin(), chain->second.slots.end());
    chains_.erase(chain);
    return result;
  }

  // When the driver wants to be interrupted. Without EVENT_IDX: always, or never.
  void WantInterrupts(bool wanted) {
    Word(avail(0)).store(wanted ? 0 : kernel_abi::kAvailFNoInterrupt);
  }
  // With EVENT_IDX: once the used index passes `event`.
  void WantInterruptAfter(uint16_t event) {
    Word(avail(4 + 2 * uint64_t{setup_.size})).store(event);
  }

  // What a hostile driver does.
  void PutDesc(uint16_t index, const Desc& desc) {
    std::memcpy(ram_.Host(setup_.desc) + sizeof(Desc) * index, &desc, sizeof(desc));
  }
  void PutAvailable(uint16_t head) {
    Word(avail(4 + 2 * uint64_t(avail_ % setup_.size))).store(head);
    PutAvailableIndex(static_cast<uint16_t>(avail_ + 1));
  }
  void PutAvailableIndex(uint16_t index) {
    avail_ = index;
    Word(avail(2)).store(index, std::memory_order_release);
  }

  uint16_t available_index() const { return avail_; }
  uint16_t used_index() { return Word(used(2)).load(std::memory_order_acquire); }
  uint16_t used_flags() { return Word(used(0)).load(); }

 private:
  struct Published {
    std::vector<Desc> descs;
    std::vector<uint16_t> slots;  // of the ring's table
  };

  vhost::GuestAddress avail(uint64_t offset) const { return setup_.driver + offset; }
  vhost::GuestAddress used(uint64_t offset) const { return setup_.device + offset; }
  std::atomic_ref<uint16_t> Word(vhost::GuestAddress address) const {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ram_.Host(address)));
  }

  uint16_t Publish(std::vector<Desc> descs, bool indirect) {
    Published chain{.descs = descs, .slots = {}};
    if (indirect) {
      for (size_t i = 0; i + 1 < descs.size(); ++i) {
        descs[i].flags |= kernel_abi::kDescFNext;
        descs[i].next = static_cast<uint16_t>(i + 1);
      }
      const vhost::GuestAddress table = ram_.Allocate(sizeof(Desc) * descs.size());
      ram_.Put(table, std::as_bytes(std::span(descs)));
      descs = {{vhost::Value(table), static_cast<uint32_t>(sizeof(Desc) * descs.size()),
                kernel_abi::kDescFIndirect, 0}};
    }
    if (descs.empty() || descs.size() > free_.size()) std::abort();  // The test's mistake.
    for (size_t i = 0; i < descs.size(); ++i) {
      chain.slots.push_back(free_.back());
      free_.pop_back();
    }
    for (size_t i = 0; i < descs.size(); ++i) {
      if (i + 1 < descs.size()) {
        descs[i].flags |= kernel_abi::kDescFNext;
        descs[i].next = chain.slots[i + 1];
      }
      PutDesc(chain.slots[i], descs[i]);
    }
    const uint16_t head = chain.slots.front();
    chains_[head] = std::move(chain);
    PutAvailable(head);
    return head;
  }

  GuestRam& ram_;
  Options options_;
  vhost::VringSetup setup_;
  std::vector<uint16_t> free_;
  std::map<uint16_t, Published> chains_;  // by head
  uint16_t avail_ = 0;
  uint16_t avail_at_last_kick_ = 0;
  uint16_t used_ = 0;
};

}  // namespace fakes

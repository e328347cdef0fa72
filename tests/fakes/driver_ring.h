// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The driver's side of a virtqueue, for tests: against the queues of this process, and against
// those of the kernel. It plays a correct driver with the fluent calls, split or packed, in order
// or not,
//
//   ring.Chain().Readable("GET").Writable(512).Publish();
//   if (ring.KickWanted()) ...;
//   std::optional<DriverRing::Used> used = ring.TakeUsed();   // used->data holds what was written
//
// and a hostile one with the Put calls, which write what they are told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_side.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/vring.h"

namespace fakes {

class DriverRing {
 public:
  struct Options {
    uint16_t size = 16;
    bool event_idx = false;
    bool packed = false;
    bool in_order = false;
  };
  struct Used {
    uint16_t head = 0;  // packed: the buffer id
    uint32_t written = 0;
    std::vector<std::byte> data;  // the first `written` of the chain's writable bytes

    std::string text() const {
      return std::string(reinterpret_cast<const char*>(data.data()), data.size());
    }
  };
  using Desc = kernel_abi::VirtqDesc;

  // Lays out a ring in `ram`, which must outlive it.
  DriverRing(GuestRam& ram, Options options) : ram_(ram), options_(options) {
    const vhost::VringBytes bytes = vhost::BytesOf(layout(), options.size);
    setup_ = {.size = options.size,
              .desc = ram.Allocate(bytes.desc, 16),
              .driver = ram.Allocate(bytes.driver, 4),
              .device = ram.Allocate(bytes.device, 4)};
    if (options.packed) {
      auto side = std::make_unique<PackedDriverSide>(ram, setup_, options.event_idx);
      packed_ = side.get();
      side_ = std::move(side);
    } else {
      auto side =
          std::make_unique<SplitDriverSide>(ram, setup_, options.event_idx, options.in_order);
      split_ = side.get();
      side_ = std::move(side);
    }
    Forget();
  }

  const vhost::VringSetup& setup() const { return setup_; }
  vhost::VringLayout layout() const {
    return options_.packed ? vhost::VringLayout::kPacked : vhost::VringLayout::kSplit;
  }

  // Begins anew, as a driver does after a reset: empty rings, all descriptors free.
  void Forget() {
    const vhost::VringBytes bytes = vhost::BytesOf(layout(), setup_.size);
    std::memset(ram_.Host(setup_.desc), 0, bytes.desc);
    std::memset(ram_.Host(setup_.driver), 0, bytes.driver);
    std::memset(ram_.Host(setup_.device), 0, bytes.device);
    chains_.clear();
    order_.clear();
    ready_.clear();
    side_->Forget();
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
    // The same for a buffer that is there already.
    ChainBuilder&& At(vhost::GuestAddress address, uint32_t length, bool writable) && {
      descs_.push_back(
          {vhost::Value(address), length, writable ? kernel_abi::kDescFWrite : uint16_t{0}, 0});
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
  bool KickWanted() { return side_->KickWanted(); }

  // The next chain that the device has returned.
  std::optional<Used> TakeUsed() {
    if (ready_.empty()) LookForUsed();
    if (ready_.empty()) return std::nullopt;
    Used used = std::move(ready_.front());
    ready_.pop_front();
    return used;
  }

  // When the driver wants to be interrupted. Without EVENT_IDX: always, or never.
  void WantInterrupts(bool wanted) { side_->WantInterrupts(wanted); }
  // With EVENT_IDX: once the used index passes `event`; packed: the offset, with the wrap counter
  // in bit 15.
  void WantInterruptAfter(uint16_t event) { side_->WantInterruptAfter(event); }

  // What a hostile driver does; of a split ring only, or of a packed one only.
  void PutDesc(uint16_t index, const Desc& desc) { split_->PutDesc(index, desc); }
  void PutAvailable(uint16_t head) { split_->PutAvailable(head); }
  void PutAvailableIndex(uint16_t index) { split_->PutAvailableIndex(index); }
  uint16_t available_index() const { return split_->available_index(); }
  uint16_t used_index() const { return split_->used_index(); }
  uint16_t used_flags() const { return split_->used_flags(); }
  void PutPacked(uint16_t index, const kernel_abi::PackedDesc& desc) {
    packed_->PutDesc(index, desc);
  }
  uint16_t packed_flags(uint16_t index) const { return packed_->flags(index); }

 private:
  struct Pending {
    std::vector<Desc> descs;
    DriverSide::Published published;
  };

  uint16_t Publish(std::vector<Desc> descs, bool indirect) {
    Pending chain{.descs = descs, .published = {}};
    if (indirect) descs = {PutTable(descs)};
    chain.published = side_->Publish(std::move(descs));
    const uint16_t id = chain.published.id;
    chains_[id] = std::move(chain);
    order_.push_back(id);
    return id;
  }

  Desc PutTable(std::vector<Desc> descs) {
    const vhost::GuestAddress at = ram_.Allocate(sizeof(Desc) * descs.size());
    for (size_t i = 0; i < descs.size(); ++i) {
      if (options_.packed) {
        const kernel_abi::PackedDesc desc{descs[i].addr, descs[i].len, 0, descs[i].flags};
        ram_.Put(at + sizeof(desc) * i, std::as_bytes(std::span(&desc, 1)));
        continue;
      }
      if (i + 1 < descs.size()) {
        descs[i].flags |= kernel_abi::kDescFNext;
        descs[i].next = static_cast<uint16_t>(i + 1);
      }
      ram_.Put(at + sizeof(Desc) * i, std::as_bytes(std::span(&descs[i], 1)));
    }
    return {vhost::Value(at), static_cast<uint32_t>(sizeof(Desc) * descs.size()),
            kernel_abi::kDescFIndirect, 0};
  }

  void LookForUsed() {
    const std::optional<DriverSide::Used> used = side_->LookAtUsed();
    if (!used.has_value()) return;
    if (chains_.find(used->id) == chains_.end()) {  // Published by hand.
      side_->Advance(1, 1);
      ready_.push_back({.head = used->id, .written = used->written, .data = {}});
      return;
    }
    // In order, what was skipped was used completely (2.7.9, 2.8.9).
    size_t entries = 0;
    do {
      const uint16_t id = options_.in_order ? order_.front() : used->id;
      const uint32_t written = id == used->id ? used->written : WritableBytes(chains_[id]);
      entries += chains_[id].published.slots.size();
      ready_.push_back(Finish(id, written));
    } while (ready_.back().head != used->id);
    side_->Advance(ready_.size(), entries);
  }

  static uint32_t WritableBytes(const Pending& chain) {
    uint32_t bytes = 0;
    for (const Desc& desc : chain.descs) {
      if ((desc.flags & kernel_abi::kDescFWrite) != 0) bytes += desc.len;
    }
    return bytes;
  }

  Used Finish(uint16_t id, uint32_t written) {
    const Pending chain = std::move(chains_[id]);
    chains_.erase(id);
    std::erase(order_, id);
    Used result{.head = id, .written = written, .data = {}};
    for (const Desc& desc : chain.descs) {
      if ((desc.flags & kernel_abi::kDescFWrite) == 0) continue;
      const std::vector<std::byte> bytes = ram_.Bytes(vhost::GuestAddress{desc.addr}, desc.len);
      result.data.insert(result.data.end(), bytes.begin(), bytes.end());
    }
    if (result.data.size() > written) result.data.resize(written);
    side_->Free(chain.published);
    return result;
  }

  GuestRam& ram_;
  Options options_;
  vhost::VringSetup setup_;
  std::unique_ptr<DriverSide> side_;
  SplitDriverSide* split_ = nullptr;  // one of the two is the side
  PackedDriverSide* packed_ = nullptr;
  std::map<uint16_t, Pending> chains_;  // by id
  std::deque<uint16_t> order_;          // ids as they were published
  std::deque<Used> ready_;
};

}  // namespace fakes

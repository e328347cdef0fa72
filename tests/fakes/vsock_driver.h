// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The driver's side of the two virtqueues of a socket device, for tests and benches: packets in
// fixed buffers, used again as a driver does. It knows of headers, and of no connection
// (vsock_guest.h does); it sends whatever it is told, correct or not.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/vring.h"

namespace fakes {

// A ring whose slots have a buffer each. A slot takes one descriptor, or two: the header's and the
// rest's. Split rings are driven here, at the speed that benches need; packed and in-order ones by
// a DriverRing.
class SlotRing {
 public:
  struct Options {
    uint16_t size = 64;  // descriptors
    uint32_t slot_bytes = 4096;
    uint32_t split_at = 0;  // bytes of a first descriptor; 0: one descriptor
    bool device_writes = false;
    bool event_idx = false;
    bool packed = false;
    bool in_order = false;
  };

  SlotRing(GuestRam& ram, const Options& options) : ram_(ram), options_(options) {
    for (uint16_t slot = 0; slot < slots(); ++slot) {
      buffers_.push_back(ram.Allocate(options.slot_bytes, 64));
    }
    if (options.packed || options.in_order) {
      ring_ = std::make_unique<DriverRing>(ram, DriverRing::Options{.size = options.size,
                                                                    .event_idx = options.event_idx,
                                                                    .packed = options.packed,
                                                                    .in_order = options.in_order});
      setup_ = ring_->setup();
      return;
    }
    const vhost::VringBytes bytes = vhost::BytesOf(vhost::VringLayout::kSplit, options.size);
    setup_ = {.size = options.size,
              .desc = ram.Allocate(bytes.desc, 16),
              .driver = ram.Allocate(bytes.driver, 2),
              .device = ram.Allocate(bytes.device, 4)};
    Forget();
  }

  const vhost::VringSetup& setup() const { return setup_; }
  vhost::VringLayout layout() const {
    return options_.packed ? vhost::VringLayout::kPacked : vhost::VringLayout::kSplit;
  }
  uint16_t slots() const {
    return options_.split_at == 0 ? options_.size : static_cast<uint16_t>(options_.size / 2);
  }
  std::byte* buffer(uint16_t slot) const { return ram_.Host(buffers_[slot]); }
  vhost::GuestAddress address(uint16_t slot) const { return buffers_[slot]; }

  // Empty rings, as after a reset.
  void Forget() {
    slot_of_.clear();
    ready_.clear();
    if (ring_ != nullptr) return ring_->Forget();
    const vhost::VringBytes bytes = vhost::BytesOf(vhost::VringLayout::kSplit, setup_.size);
    std::memset(ram_.Host(setup_.driver), 0, bytes.driver);
    std::memset(ram_.Host(setup_.device), 0, bytes.device);
    avail_ = used_ = kicked_ = 0;
  }

  // Writes the slot's descriptors for `length` bytes and makes it available.
  void Publish(uint16_t slot, uint32_t length) {
    if (ring_ != nullptr) return PublishToRing(slot, length);
    const uint16_t write = options_.device_writes ? kernel_abi::kDescFWrite : 0;
    const uint64_t at = vhost::Value(buffers_[slot]);
    uint16_t head = slot;
    if (options_.split_at == 0 || length <= options_.split_at) {
      if (options_.split_at != 0) head = static_cast<uint16_t>(2 * slot);
      PutDesc(head, {at, length, write, 0});
    } else {
      head = static_cast<uint16_t>(2 * slot);
      const uint16_t next = static_cast<uint16_t>(head + 1);
      PutDesc(head,
              {at, options_.split_at, static_cast<uint16_t>(write | kernel_abi::kDescFNext), next});
      PutDesc(next, {at + options_.split_at, length - options_.split_at, write, 0});
    }
    PublishHead(head);
  }
  void PutDesc(uint16_t index, const kernel_abi::VirtqDesc& desc) const {
    std::memcpy(ram_.Host(setup_.desc) + sizeof(desc) * index, &desc, sizeof(desc));
  }
  void PublishHead(uint16_t head) {
    Word(setup_.driver + 4 + 2 * uint64_t(avail_ % setup_.size)).store(head);
    Word(setup_.driver + 2).store(++avail_, std::memory_order_release);
  }

  // The next slot that the device returned, and the bytes that it wrote.
  std::optional<std::pair<uint16_t, uint32_t>> TakeUsed() {
    if (ring_ != nullptr) {
      // All at once: what they are called may be given to others as soon as one is published.
      while (const std::optional<DriverRing::Used> each = ring_->TakeUsed()) {
        ready_.emplace_back(slot_of_.at(each->head), each->written);
      }
      if (ready_.empty()) return std::nullopt;
      const std::pair<uint16_t, uint32_t> first = ready_.front();
      ready_.pop_front();
      return first;
    }
    if (Word(setup_.device + 2).load(std::memory_order_acquire) == used_) return std::nullopt;
    kernel_abi::VirtqUsedElem element;
    std::memcpy(&element,
                ram_.Host(setup_.device + 4 + sizeof(element) * uint64_t(used_ % setup_.size)),
                sizeof(element));
    ++used_;
    const uint32_t slot = options_.split_at == 0 ? element.id : element.id / 2;
    if (slot >= slots()) std::abort();  // The device returned what it was never given.
    return std::pair(static_cast<uint16_t>(slot), element.len);
  }

  // Whether the device asked to be told of what was published since this was last asked.
  bool KickWanted() {
    if (ring_ != nullptr) return ring_->KickWanted();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t before = std::exchange(kicked_, avail_);
    if (before == avail_) return false;
    if (!options_.event_idx) {
      return (Word(setup_.device).load() & kernel_abi::kUsedFNoNotify) == 0;
    }
    const uint16_t event = Word(setup_.device + 4 + 8 * uint64_t{setup_.size}).load();
    return static_cast<uint16_t>(avail_ - event - 1) < static_cast<uint16_t>(avail_ - before);
  }
  void WantInterrupts(bool wanted) const {
    Word(setup_.driver).store(wanted ? 0 : kernel_abi::kAvailFNoInterrupt);
  }
  // Of a split ring that is driven here, with EVENT_IDX: for the next chain that the device
  // returns.
  void WantInterruptNext() const {
    Word(setup_.driver + 4 + 2 * uint64_t{setup_.size}).store(used_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  uint16_t available_index() const { return avail_; }
  uint16_t taken_index() const { return used_; }

 private:
  void PublishToRing(uint16_t slot, uint32_t length) {
    const uint32_t first = options_.split_at == 0 ? length : std::min(length, options_.split_at);
    const bool writes = options_.device_writes;
    const uint16_t id = first == length
                            ? ring_->Chain().At(buffers_[slot], length, writes).Publish()
                            : ring_->Chain()
                                  .At(buffers_[slot], first, writes)
                                  .At(buffers_[slot] + first, length - first, writes)
                                  .Publish();
    slot_of_[id] = slot;
  }
  std::atomic_ref<uint16_t> Word(vhost::GuestAddress address) const {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ram_.Host(address)));
  }

  GuestRam& ram_;
  const Options options_;
  vhost::VringSetup setup_;
  std::vector<vhost::GuestAddress> buffers_;
  std::unique_ptr<DriverRing> ring_;      // if it is not driven here
  std::map<uint16_t, uint16_t> slot_of_;  // by what it calls a chain
  std::deque<std::pair<uint16_t, uint32_t>> ready_;
  uint16_t avail_ = 0;
  uint16_t used_ = 0;
  uint16_t kicked_ = 0;
};

class VsockDriver {
 public:
  using Header = kernel_abi::VirtioVsockHdr;
  static constexpr uint32_t kHeaderBytes = sizeof(Header);
  struct Options {
    uint64_t cid = 3;
    uint16_t receive_size = 64;
    uint16_t transmit_size = 64;
    uint32_t receive_bytes = 4096;  // of a receive buffer; Linux's have 4 KiB
    uint32_t transmit_bytes = kHeaderBytes + 64 * 1024;
    bool split_header = false;  // a descriptor of its own for each header
    bool event_idx = false;
    bool packed = false;
    bool in_order = false;
    bool post_receive = true;  // gives all receive buffers at once
  };
  struct Packet {
    Header header{};
    std::vector<std::byte> payload;
  };

  VsockDriver(GuestRam& ram, const Options& options)
      : options_(options),
        receive_(ram, {.size = options.receive_size,
                       .slot_bytes = options.receive_bytes,
                       .split_at = options.split_header ? kHeaderBytes : 0,
                       .device_writes = true,
                       .event_idx = options.event_idx,
                       .packed = options.packed,
                       .in_order = options.in_order}),
        transmit_(ram, {.size = options.transmit_size,
                        .slot_bytes = options.transmit_bytes,
                        .split_at = options.split_header ? kHeaderBytes : 0,
                        .event_idx = options.event_idx,
                        .packed = options.packed,
                        .in_order = options.in_order}) {
    Begin();
  }

  // As a driver does after a reset of the device.
  void Begin() {
    receive_.Forget();
    transmit_.Forget();
    free_.clear();
    for (uint16_t slot = transmit_.slots(); slot-- > 0;) free_.push_back(slot);
    unposted_.clear();
    for (uint16_t slot = receive_.slots(); slot-- > 0;) unposted_.push_back(slot);
    if (options_.post_receive) PostReceive(receive_.slots());
  }

  SlotRing& receive() { return receive_; }
  SlotRing& transmit() { return transmit_; }
  uint64_t cid() const { return options_.cid; }

  // Gives `count` more receive buffers; false if there are not so many left.
  bool PostReceive(int count = 1) {
    for (; count > 0 && !unposted_.empty(); --count) {
      receive_.Publish(unposted_.back(), options_.receive_bytes);
      unposted_.pop_back();
    }
    return count == 0;
  }
  // What becomes of a buffer that was read: given again, or kept until PostReceive.
  void KeepReceived(bool keep) { keep_ = keep; }

  // Publishes a packet. False: no room in the ring.
  bool Send(const Header& header, std::span<const std::byte> payload = {}) {
    const std::optional<uint16_t> slot = FreeSlot();
    if (!slot.has_value()) return false;
    std::memcpy(transmit_.buffer(*slot), &header, kHeaderBytes);
    if (!payload.empty()) {
      std::memcpy(transmit_.buffer(*slot) + kHeaderBytes, payload.data(), payload.size());
    }
    transmit_.Publish(*slot, kHeaderBytes + static_cast<uint32_t>(payload.size()));
    return true;
  }
  // The same with `length` bytes of payload that happen to be in the buffer: for benches.
  bool SendInPlace(const Header& header, uint32_t length) {
    const std::optional<uint16_t> slot = FreeSlot();
    if (!slot.has_value()) return false;
    std::memcpy(transmit_.buffer(*slot), &header, kHeaderBytes);
    transmit_.Publish(*slot, kHeaderBytes + length);
    return true;
  }
  // Publishes a chain with these bytes, whatever they are.
  bool SendBytes(std::span<const std::byte> bytes) {
    const std::optional<uint16_t> slot = FreeSlot();
    if (!slot.has_value()) return false;
    std::memcpy(transmit_.buffer(*slot), bytes.data(), bytes.size());
    transmit_.Publish(*slot, static_cast<uint32_t>(bytes.size()));
    return true;
  }
  // Chains of the transmit queue that the device has not returned.
  size_t under_way() {
    Reclaim();
    return transmit_.slots() - free_.size();
  }

  // The next packet that the device has written.
  std::optional<Packet> Receive() {
    const auto used = receive_.TakeUsed();
    if (!used.has_value()) return std::nullopt;
    const auto [slot, written] = *used;
    Packet packet;
    std::memcpy(&packet.header, receive_.buffer(slot), kHeaderBytes);
    if (written >= kHeaderBytes && written <= options_.receive_bytes) {
      const std::byte* payload = receive_.buffer(slot) + kHeaderBytes;
      packet.payload.assign(payload, payload + (written - kHeaderBytes));
    } else {
      packet.header = {};
    }
    unposted_.push_back(slot);
    if (!keep_) PostReceive();
    return packet;
  }
  // The same, of which only the header is looked at: for benches.
  bool ReceiveInPlace(Header& header) {
    const auto used = receive_.TakeUsed();
    if (!used.has_value()) return false;
    std::memcpy(&header, receive_.buffer(used->first), kHeaderBytes);
    unposted_.push_back(used->first);
    PostReceive();
    return true;
  }

 private:
  void Reclaim() {
    while (const auto used = transmit_.TakeUsed()) free_.push_back(used->first);
  }
  std::optional<uint16_t> FreeSlot() {
    Reclaim();
    if (free_.empty()) return std::nullopt;
    const uint16_t slot = free_.back();
    free_.pop_back();
    return slot;
  }

  const Options options_;
  SlotRing receive_;
  SlotRing transmit_;
  std::vector<uint16_t> free_;
  std::vector<uint16_t> unposted_;
  bool keep_ = false;
};

}  // namespace fakes

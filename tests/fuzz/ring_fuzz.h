// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A queue of this process against a driver that does anything at all. An input is two bytes of
// features and a list of actions, of the driver and of the device, read to its end; every byte
// string is one. After each action the queue must have kept its promises: chains lie in guest
// memory, their numbers add up, none is lost, and a broken ring stays broken.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <utility>

#include "kernel-abi/kernel.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/inprocess/virtqueue.h"

namespace fuzz {

using vhost::GuestAddress;
using vhost::VirtioFeature;
using vhost::VirtioFeatures;
using vhost::inprocess::Chain;

// The input, from its front. Zeros when it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  template <typename T>
  T Next() {
    T value{};
    const size_t bytes = rest_.size() < sizeof(T) ? rest_.size() : sizeof(T);
    std::memcpy(&value, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }

 private:
  std::span<const uint8_t> rest_;
};

inline void Require(bool promise) {
  if (!promise) std::abort();
}

class RingFuzz {
 public:
  RingFuzz(vhost::VringLayout layout, Input input) : layout_(layout), input_(input) {
    const auto bits = input_.Next<uint8_t>();
    acked_ = {VirtioFeature::kVersion1};
    acked_.Set(VirtioFeature::kEventIdx, (bits & 1) != 0);
    acked_.Set(VirtioFeature::kIndirectDesc, (bits & 2) != 0);
    acked_.Set(VirtioFeature::kInOrder, (bits & 4) != 0);
    acked_.Set(VirtioFeature::kRingPacked, layout == vhost::VringLayout::kPacked);
    const auto size = input_.Next<uint8_t>();
    size_ = layout == vhost::VringLayout::kSplit ? uint16_t{1} << (size % 6)
                                                 : static_cast<uint16_t>(size % 32 + 1);
    setup_ = {.size = size_,
              .desc = ram_.region().start,
              .driver = ram_.region().start + kDriver,
              .device = ram_.region().start + kDevice};
    Start(vhost::InitialBase(layout));
  }

  void Run() {
    while (!input_.empty()) {
      Act();
      Require(queue_->in_flight() == chains_.size());
      if (broken_) Require(!queue_->broken().ok());
      broken_ = !queue_->broken().ok();
    }
    chains_.clear();
    Require(queue_->in_flight() == 0);
  }

 private:
  // Where things are in the first region; buffers and tables may be anywhere, the ring included.
  static constexpr uint64_t kDriver = 0x400;
  static constexpr uint64_t kDevice = 0x600;
  static constexpr uint64_t kRamBytes = 0x2000;

  void Start(vhost::VringBase base) {
    queue_.reset();
    const auto vring = vhost::Vring::Create(setup_, layout_, *memory_);
    Require(vring.ok());
    queue_ = vhost::inprocess::Virtqueue::Create(kernel_abi::LinuxKernel(), *vring, base, acked_,
                                                 memory_, -1);
    broken_ = false;
  }

  void Act() {
    switch (input_.Next<uint8_t>() % 16) {
      case 0:
      case 1:
        return PutDescriptor();
      case 2:
      case 3:
        return MakeAvailable();
      case 4: {  // Any byte of the first region.
        const auto at = input_.Next<uint16_t>() % kRamBytes;
        *ram_.Host(ram_.region().start + at) = input_.Next<std::byte>();
        return;
      }
      case 5: {  // A word of the avail ring, or of the driver's event area.
        const auto at = input_.Next<uint8_t>() % 128;
        return Put<uint16_t>(kDriver + 2 * at, input_.Next<uint16_t>());
      }
      case 6:
      case 7:
      case 8:
        return Take();
      case 9:
        if (chains_.empty()) return;
        chains_.front().chain.Return(input_.Next<uint16_t>());
        return chains_.pop_front();
      case 10:
        if (chains_.empty()) return;
        chains_.back().chain.Return(input_.Next<uint32_t>());
        return chains_.pop_back();
      case 11:
        if (chains_.empty() || chains_.back().number != taken_) return;
        queue_->PutBack(std::move(chains_.back().chain));
        Require(queue_->broken().code() != absl::StatusCode::kInternal);
        --taken_;
        return chains_.pop_back();
      case 12:
        return queue_->Flush();
      case 13:
        queue_->SignalUsed();
        return;
      case 14:
        if (input_.Next<uint8_t>() % 2 == 0) return queue_->DisableKicks();
        (void)queue_->EnableKicks();
        return;
      default: {  // Another server.
        chains_.clear();
        const auto what = input_.Next<uint8_t>();
        if (what % 8 == 0) {  // Or other memory, with the ring where it is.
          if (what >= 128) return queue_->SetMemory(memory_);
          return queue_->SetMemory(ram_.table());
        }
        const bool same = what % 4 != 1;
        const vhost::VringBase base = same ? queue_->base() : input_.Next<uint32_t>();
        if (same && !queue_->broken().ok()) return;
        Start(base);
        if (same) Require(queue_->broken().ok());
      }
    }
  }

  template <typename Word>
  void Put(uint64_t offset, Word value) {
    std::memcpy(ram_.Host(ram_.region().start + offset), &value, sizeof(value));
  }

  // Addresses near what matters: the regions' borders, the ring, an indirect table.
  uint64_t Address() {
    const auto where = input_.Next<uint8_t>();
    const uint64_t offset = input_.Next<uint16_t>();
    switch (where % 8) {
      case 0:
        return vhost::Value(high_.region().start) - 32 + offset % 64;
      case 1:
        return vhost::Value(high_.end()) - 32 + offset % 64;
      case 2:
        return uint64_t{0} - offset % 64;
      case 3:  // The ring itself.
        return vhost::Value(ram_.region().start) + offset % 0x800;
      default:
        return vhost::Value(ram_.region().start) + 0x800 + offset % 0x1400;
    }
  }
  uint32_t Length() {
    const auto kind = input_.Next<uint8_t>();
    if (kind % 16 == 0) return input_.Next<uint32_t>();
    return kind % 4 == 1 ? 16U * (kind / 4) : kind;
  }

  // In the ring, or in a table of 16 in the first region.
  void PutDescriptor() {
    const auto where = input_.Next<uint8_t>();
    const uint64_t table = where < 128 ? 0 : 0x800;
    const uint64_t slot = where % (where < 128 ? 2 * size_ : 16);
    const uint64_t address = Address();
    const uint32_t length = Length();
    const auto flags = static_cast<uint16_t>(input_.Next<uint8_t>() & 7);
    const auto last = static_cast<uint16_t>(input_.Next<uint8_t>());
    if (layout_ == vhost::VringLayout::kSplit) {
      return Put(table + 16 * slot, kernel_abi::VirtqDesc{address, length, flags, last});
    }
    Put(table + 16 * slot, kernel_abi::PackedDesc{address, length, last, flags});
  }

  void MakeAvailable() {
    const auto what = input_.Next<uint8_t>();
    if (layout_ == vhost::VringLayout::kPacked) {
      uint16_t flags;
      const uint64_t at = 16 * uint64_t{next_} + offsetof(kernel_abi::PackedDesc, flags);
      std::memcpy(&flags, ram_.Host(setup_.desc + at), sizeof(flags));
      flags &=
          static_cast<uint16_t>(~(kernel_abi::kPackedDescFAvail | kernel_abi::kPackedDescFUsed));
      flags |= wrap_ ? kernel_abi::kPackedDescFAvail : kernel_abi::kPackedDescFUsed;
      Put(at, flags);
      if (++next_ >= size_) {
        next_ = 0;
        wrap_ = !wrap_;
      }
      return;
    }
    Put<uint16_t>(kDriver + 4 + 2 * uint64_t(next_ % size_), what);
    Put<uint16_t>(kDriver + 2, ++next_);
  }

  void Take() {
    Chain chain;
    const bool taken = queue_->Take(chain);
    Require(taken == chain.held());
    if (!taken) return;
    Require(queue_->broken().ok());
    CheckBytes(chain.readable(), chain.readable_bytes(), false);
    CheckBytes(chain.writable(), chain.writable_bytes(), true);
    std::array<std::byte, 8> some{};
    if (chain.readable_bytes() >= some.size()) {
      Require(chain.Read(chain.readable_bytes() - some.size(), some).ok());
    }
    Require(!chain.Read(chain.readable_bytes(), some).ok());
    chains_.push_back({std::move(chain), ++taken_});
  }

  bool Within(const fakes::GuestRam& ram, const iovec& piece) const {
    const auto* first = static_cast<const std::byte*>(piece.iov_base);
    const std::byte* start = ram.region().host;
    return first >= start && piece.iov_len <= ram.region().size &&
           static_cast<uint64_t>(first - start) <= ram.region().size - piece.iov_len;
  }
  void CheckBytes(std::span<const iovec> pieces, size_t bytes, bool write) {
    size_t sum = 0;
    for (const iovec& piece : pieces) {
      Require(piece.iov_len > 0);
      Require(Within(ram_, piece) || Within(high_, piece));
      sum += piece.iov_len;
      auto* first = static_cast<volatile std::byte*>(piece.iov_base);
      const std::byte copy = first[piece.iov_len - 1];
      if (write) first[0] = copy;  // May well be the ring itself.
    }
    Require(sum == bytes);
  }

  const vhost::VringLayout layout_;
  Input input_;
  VirtioFeatures acked_;
  uint16_t size_;
  // Two regions that are neighbours in the guest and not here; beyond both, nothing is mapped.
  fakes::GuestRam ram_{kRamBytes, 0x1'0000};
  fakes::GuestRam high_{0x1000, 0x1'0000 + kRamBytes};
  std::shared_ptr<const vhost::MemoryTable> memory_ = std::make_shared<const vhost::MemoryTable>(
      *vhost::MemoryTable::Create({ram_.region(), high_.region()}));
  vhost::VringSetup setup_;
  std::unique_ptr<vhost::inprocess::Virtqueue> queue_;
  struct Taken {
    Chain chain;
    uint64_t number;
  };
  std::deque<Taken> chains_;
  uint64_t taken_ = 0;  // chains, less those put back
  bool broken_ = false;
  uint16_t next_ = 0;
  bool wrap_ = true;
};

}  // namespace fuzz

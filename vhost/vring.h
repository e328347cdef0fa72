// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A VringSetup is what a driver wrote into the transport's registers: numbers from a guest. A Vring
// is the same after it was checked against the guest's memory: only a Vring reaches a backend. The
// kernel would answer a bare EFAULT at attach, or nothing at all; the messages here say which ring
// is wrong and how.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "vhost/guest_address.h"
#include "vhost/guest_memory.h"

namespace vhost {

// The largest queue size of virtio 1.3, 2.7; also vhost's.
inline constexpr uint32_t kMaxQueueSize = 32768;

enum class VringLayout : uint8_t { kSplit, kPacked };

struct VringSetup {
  uint16_t size = 0;      // entries
  GuestAddress desc{};    // descriptor table; packed: descriptor ring
  GuestAddress driver{};  // available ring; packed: driver event suppression area
  GuestAddress device{};  // used ring; packed: device event suppression area
};

// Sizes in bytes of the three parts, event index words included.
struct VringBytes {
  uint64_t desc;
  uint64_t driver;
  uint64_t device;
};
VringBytes BytesOf(VringLayout layout, uint16_t size);

class Vring {
 public:
  // INVALID_ARGUMENT: size not a power of two from 1 to 32768 (packed: any from 1), or a part not
  // aligned as virtio 1.3, 2.7 and 2.8 want. OUT_OF_RANGE: a part not wholly inside one region.
  static absl::StatusOr<Vring> Create(const VringSetup& setup, VringLayout layout,
                                      const MemoryTable& memory);
  // For a VMM that keeps host addresses: the same checks, from those.
  static absl::StatusOr<Vring> FromHost(uint16_t size, const void* desc, const void* driver,
                                        const void* device, VringLayout layout,
                                        const MemoryTable& memory);

  const VringSetup& setup() const { return setup_; }
  uint16_t size() const { return setup_.size; }
  VringLayout layout() const { return layout_; }
  VringBytes bytes() const { return BytesOf(layout_, setup_.size); }
  // Where the parts are mapped in this process, under the memory table that it was created with.
  std::byte* desc() const { return desc_; }
  std::byte* driver() const { return driver_; }
  std::byte* device() const { return device_; }

  // True if the parts are mapped at the same host addresses under `memory`. A running ring must
  // not be moved by a change of memory.
  bool SamePlaceIn(const MemoryTable& memory) const;

 private:
  Vring() = default;
  VringSetup setup_;
  VringLayout layout_ = VringLayout::kSplit;
  std::byte* desc_ = nullptr;
  std::byte* driver_ = nullptr;
  std::byte* device_ = nullptr;
};

// What the driver and whoever serves the ring have published in a split ring, read at one moment
// without stopping anybody (each word by itself; they may be of different moments).
struct VringIndices {
  uint16_t avail = 0;        // next entry that the driver will make available
  uint16_t used = 0;         // next entry that the device will fill
  uint16_t used_event = 0;   // the driver wants an interrupt when `used` passes it (EVENT_IDX)
  uint16_t avail_event = 0;  // the device wants a kick when `avail` passes it (EVENT_IDX)
  uint16_t avail_flags = 0;
  uint16_t used_flags = 0;
};
// Only for a split ring.
VringIndices ReadIndices(const Vring& vring);

}  // namespace vhost

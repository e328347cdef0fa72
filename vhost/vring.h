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

// Where whoever serves a packed ring stands in it: no index of such a ring is in memory, so only
// its server can tell. And what both sides have written beside, as of the same moment or a later
// one.
struct PackedPositions {
  uint16_t avail = 0;         // descriptor that the device looks at next
  bool avail_wrap = false;    // and its wrap counter there
  uint16_t used = 0;          // descriptor that it overwrites next with a used one
  bool used_wrap = false;     // and its wrap counter there
  uint16_t taken = 0;         // descriptors from `used` to `avail`: taken and not returned
  bool waiting = false;       // the driver has made the one at `avail` available
  uint64_t returned = 0;      // descriptors, since the start
  uint16_t driver_event = 0;  // event suppression (virtio 1.3, 2.8.10): offset, wrap in bit 15
  uint16_t driver_flags = 0;
  uint16_t device_event = 0;
  uint16_t device_flags = 0;
};
// Only for a packed ring. `base` is the server's, as VHOST_GET_VRING_BASE encodes it.
PackedPositions ReadPositions(const Vring& vring, uint32_t base, uint64_t returned);

}  // namespace vhost

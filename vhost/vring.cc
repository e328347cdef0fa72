// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/vring.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>
#include <span>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"

namespace vhost {
namespace {

struct Alignment {  // virtio 1.3, 2.7 (split) and 2.8 (packed), bytes
  uint64_t desc;
  uint64_t driver;
  uint64_t device;
};

constexpr Alignment AlignmentOf(VringLayout layout) {
  return layout == VringLayout::kSplit ? Alignment{16, 2, 4} : Alignment{16, 4, 4};
}

// The host address of one part, checked.
absl::StatusOr<std::byte*> Part(const char* name, GuestAddress address, uint64_t bytes,
                                uint64_t alignment, const MemoryTable& memory) {
  if (Value(address) % alignment != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s at guest address %#x is not aligned to %d bytes", name, Value(address), alignment));
  }
  absl::StatusOr<std::byte*> host = memory.Translate(address, bytes);
  if (!host.ok()) return kernel_abi::AddContext(host.status(), name);
  return host;
}

// True if the bytes are at `host`: as MemoryTable::Translate would say, which also words a refusal,
// and costs as much as half a request of the kernel when each update of the table asks six times.
bool IsAt(const MemoryTable& memory, GuestAddress address, uint64_t bytes, const std::byte* host) {
  const std::span<const MemoryRegion> regions = memory.merged();
  const auto after = std::upper_bound(
      regions.begin(), regions.end(), address,
      [](GuestAddress wanted, const MemoryRegion& region) { return wanted < region.start; });
  if (after == regions.begin()) return false;
  const MemoryRegion& region = *std::prev(after);
  const uint64_t offset = Value(address) - Value(region.start);
  return offset < region.size && bytes <= region.size - offset && region.host + offset == host;
}

uint16_t Load(const std::byte* address) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(const_cast<std::byte*>(address)))
      .load(std::memory_order_relaxed);
}

}  // namespace

VringBytes BytesOf(VringLayout layout, uint16_t size) {
  const uint64_t n = size;
  if (layout == VringLayout::kPacked) return {16 * n, 4, 4};
  // flags, idx, the entries, and the event word that stands behind them.
  return {16 * n, 4 + 2 * n + 2, 4 + 8 * n + 2};
}

absl::StatusOr<Vring> Vring::Create(const VringSetup& setup, VringLayout layout,
                                    const MemoryTable& memory) {
  const bool split = layout == VringLayout::kSplit;
  if (setup.size == 0 || setup.size > kMaxQueueSize ||
      (split && !std::has_single_bit(setup.size))) {
    return absl::InvalidArgumentError(absl::StrCat("queue size ", setup.size, " is not ",
                                                   split ? "a power of two " : "", "from 1 to ",
                                                   kMaxQueueSize));
  }
  const VringBytes bytes = BytesOf(layout, setup.size);
  const Alignment alignment = AlignmentOf(layout);
  absl::StatusOr<std::byte*> desc =
      Part("descriptor table", setup.desc, bytes.desc, alignment.desc, memory);
  if (!desc.ok()) return desc.status();
  absl::StatusOr<std::byte*> driver = Part(split ? "available ring" : "driver event area",
                                           setup.driver, bytes.driver, alignment.driver, memory);
  if (!driver.ok()) return driver.status();
  absl::StatusOr<std::byte*> device = Part(split ? "used ring" : "device event area", setup.device,
                                           bytes.device, alignment.device, memory);
  if (!device.ok()) return device.status();
  Vring vring;
  vring.setup_ = setup;
  vring.layout_ = layout;
  vring.desc_ = *desc;
  vring.driver_ = *driver;
  vring.device_ = *device;
  return vring;
}

absl::StatusOr<Vring> Vring::FromHost(uint16_t size, const void* desc, const void* driver,
                                      const void* device, VringLayout layout,
                                      const MemoryTable& memory) {
  const VringBytes bytes = BytesOf(layout, size);
  VringSetup setup{.size = size};
  for (const auto& [name, host, length, guest] :
       {std::tuple{"descriptors", desc, bytes.desc, &setup.desc},
        std::tuple{"driver area", driver, bytes.driver, &setup.driver},
        std::tuple{"device area", device, bytes.device, &setup.device}}) {
    absl::StatusOr<GuestAddress> address = memory.TranslateBack(host, length);
    if (!address.ok()) return kernel_abi::AddContext(address.status(), name);
    *guest = *address;
  }
  return Create(setup, layout, memory);
}

bool Vring::SamePlaceIn(const MemoryTable& memory) const {
  const VringBytes sizes = bytes();
  return IsAt(memory, setup_.desc, sizes.desc, desc_) &&
         IsAt(memory, setup_.driver, sizes.driver, driver_) &&
         IsAt(memory, setup_.device, sizes.device, device_);
}

VringIndices ReadIndices(const Vring& vring) {
  const size_t n = vring.size();
  return {.avail = Load(vring.driver() + 2),
          .used = Load(vring.device() + 2),
          .used_event = Load(vring.driver() + 4 + 2 * n),
          .avail_event = Load(vring.device() + 4 + 8 * n),
          .avail_flags = Load(vring.driver()),
          .used_flags = Load(vring.device())};
}

PackedPositions ReadPositions(const Vring& vring, uint32_t base, uint64_t returned) {
  const auto offset = [](uint32_t half) { return static_cast<uint16_t>(half & 0x7fff); };
  const auto wrap = [](uint32_t half) { return (half & 0x8000) != 0; };
  const uint32_t low = base & 0xffff;
  const uint32_t high = base >> 16;
  PackedPositions at{.avail = offset(low),
                     .avail_wrap = wrap(low),
                     .used = offset(high),
                     .used_wrap = wrap(high),
                     .returned = returned,
                     .driver_event = Load(vring.driver()),
                     .driver_flags = Load(vring.driver() + 2),
                     .device_event = Load(vring.device()),
                     .device_flags = Load(vring.device() + 2)};
  if (at.avail >= vring.size() || at.used >= vring.size()) return at;  // No place in this ring.
  const int ahead = at.avail - at.used + (at.avail_wrap == at.used_wrap ? 0 : vring.size());
  at.taken = static_cast<uint16_t>(ahead);
  const uint16_t flags = Load(vring.desc() + sizeof(kernel_abi::PackedDesc) * at.avail +
                              offsetof(kernel_abi::PackedDesc, flags));
  const uint16_t available =
      at.avail_wrap ? kernel_abi::kPackedDescFAvail : kernel_abi::kPackedDescFUsed;
  at.waiting =
      (flags & (kernel_abi::kPackedDescFAvail | kernel_abi::kPackedDescFUsed)) == available;
  return at;
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/io_apic.h"

#include <algorithm>

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

// The two registers through which all others are reached.
constexpr uint64_t kSelectOffset = 0x00;
constexpr uint64_t kWindowOffset = 0x10;

constexpr uint32_t kIdRegister = 0;
constexpr uint32_t kVersionRegister = 1;
constexpr uint32_t kArbitrationRegister = 2;
constexpr uint32_t kFirstEntryRegister = 0x10;  // two a pin

constexpr uint32_t kIdMask = 0x0F00'0000;
// The version without an EOI register: interrupts are ended by the local APICs' broadcast.
constexpr uint32_t kVersion = 0x11 | (kIoApicPins - 1) << 16;

// A redirection entry.
constexpr uint64_t kVectorMask = 0xFF;
constexpr unsigned kDeliveryModeShift = 8;
constexpr uint64_t kLogicalDestination = 1 << 11;
constexpr uint64_t kRemoteIrr = 1 << 14;  // sent, and not ended yet; level triggered only
constexpr uint64_t kLevelTriggered = 1 << 15;
constexpr uint64_t kMasked = 1 << 16;
constexpr unsigned kDestinationShift = 56;
constexpr uint64_t kReadOnly = kRemoteIrr | 1 << 12;

IoApic::Message MessageOf(uint64_t entry) {
  constexpr uint64_t kMessageBase = 0xFEE0'0000;
  constexpr uint32_t kLevelAssert = 1 << 14;
  const bool is_level = (entry & kLevelTriggered) != 0;
  return {.address = kMessageBase | (entry >> kDestinationShift) << 12 |
                     ((entry & kLogicalDestination) != 0 ? 1 << 2 : 0),
          .data = static_cast<uint32_t>((entry & kVectorMask) |
                                        (entry >> kDeliveryModeShift & 7) << kDeliveryModeShift |
                                        (is_level ? kLevelTriggered | kLevelAssert : 0))};
}

}  // namespace

void IoApic::Reset() {
  absl::MutexLock lock(&mutex_);
  index_ = 0;
  id_ = 0;
  for (Pin& pin : pins_) {
    pin.entry = kMasked;
    pin.pending = false;
    // The line is its device's, and stays.
  }
}

void IoApic::SetLine(uint32_t gsi, bool level) {
  absl::MutexLock lock(&mutex_);
  if (gsi >= kIoApicPins || pins_[gsi].high == level) return;
  Pin& pin = pins_[gsi];
  pin.high = level;
  if (level && (pin.entry & kLevelTriggered) == 0) pin.pending = true;
  Service(gsi);
}

void IoApic::EndOfInterrupt(uint8_t vector) {
  absl::MutexLock lock(&mutex_);
  for (uint32_t gsi = 0; gsi < kIoApicPins; ++gsi) {
    Pin& pin = pins_[gsi];
    if ((pin.entry & kRemoteIrr) == 0 || (pin.entry & kVectorMask) != vector) continue;
    pin.entry &= ~kRemoteIrr;
    Service(gsi);  // still high: once more
  }
}

void IoApic::Service(uint32_t gsi) {
  Pin& pin = pins_[gsi];
  if ((pin.entry & kMasked) != 0) return;
  const Message message = MessageOf(pin.entry);
  if ((pin.entry & kLevelTriggered) == 0) {
    if (!pin.pending) return;
    pin.pending = false;
  } else {
    if (pin.announced != message) {
      connections_.announce(gsi, message);
      pin.announced = message;
    }
    if (!pin.high || (pin.entry & kRemoteIrr) != 0) return;
    pin.entry |= kRemoteIrr;
  }
  connections_.send(message);
}

void IoApic::Read(uint64_t offset, std::span<std::byte> data) {
  absl::MutexLock lock(&mutex_);
  uint32_t value = 0;
  if (offset == kSelectOffset) value = index_;
  if (offset == kWindowOffset) value = ReadRegister(index_);
  vhost::StoreLittleEndian(data, value);
}

void IoApic::Write(uint64_t offset, std::span<const std::byte> data) {
  absl::MutexLock lock(&mutex_);
  const auto value = static_cast<uint32_t>(vhost::LoadLittleEndian(data));
  if (offset == kSelectOffset) index_ = value & 0xFF;
  if (offset == kWindowOffset && data.size() == 4) WriteRegister(index_, value);
}

uint32_t IoApic::ReadRegister(uint32_t index) const {
  if (index == kIdRegister || index == kArbitrationRegister) return id_;
  if (index == kVersionRegister) return kVersion;
  if (index < kFirstEntryRegister || index >= kFirstEntryRegister + 2 * kIoApicPins) return 0;
  const uint64_t entry = pins_[(index - kFirstEntryRegister) / 2].entry;
  return static_cast<uint32_t>(index % 2 == 0 ? entry : entry >> 32);
}

void IoApic::WriteRegister(uint32_t index, uint32_t value) {
  if (index == kIdRegister) id_ = value & kIdMask;
  if (index < kFirstEntryRegister || index >= kFirstEntryRegister + 2 * kIoApicPins) return;
  const uint32_t gsi = (index - kFirstEntryRegister) / 2;
  Pin& pin = pins_[gsi];
  if (index % 2 != 0) {
    pin.entry = (pin.entry & 0xFFFF'FFFF) | uint64_t{value} << 32;
  } else {
    const uint64_t low = (value & ~kReadOnly) | (pin.entry & kReadOnly);
    pin.entry = (pin.entry & ~uint64_t{0xFFFF'FFFF}) | low;
    // An edge-triggered interrupt has no end. Linux ends a level-triggered one of another CPU by
    // switching it to edge and back.
    if ((pin.entry & kLevelTriggered) == 0) pin.entry &= ~kRemoteIrr;
  }
  Service(gsi);
}

}  // namespace vmm

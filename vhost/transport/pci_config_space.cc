// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/pci_config_space.h"

#include "absl/strings/str_format.h"
#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

constexpr uint16_t kStatusInterrupt = 1 << 3;
constexpr uint16_t kStatusCapabilities = 1 << 4;
constexpr uint64_t kBar64Bit = 0x4;
constexpr uint64_t kBarPrefetchable = 0x8;
constexpr uint64_t kBarIo = 0x1;
constexpr uint64_t kLow = 0xffff'ffff;

}  // namespace

PciConfigSpace::PciConfigSpace(const Identity& identity) {
  Make(0x00, 2, identity.vendor);
  Make(0x02, 2, identity.device);
  Make(kCommand, 2, 0,
       pci_command::kMemory | pci_command::kBusMaster | pci_command::kParity |
           pci_command::kSystemError | pci_command::kInterruptDisable);
  Make(kStatus, 2, kStatusCapabilities);
  Make(0x08, 1, identity.revision);
  Make(0x09, 3, identity.class_code);
  Make(0x0c, 1, 0, 0xff);  // cache line size: the guest's to note
  Make(0x2c, 2, identity.subsystem_vendor);
  Make(0x2e, 2, identity.subsystem);
  Make(0x3c, 1, identity.interrupt_pin != 0 ? 0 : 0xff, 0xff);  // interrupt line: likewise
  Make(0x3d, 1, identity.interrupt_pin);
}

void PciConfigSpace::AddBar(int index, uint64_t size, BarType type) {
  const uint32_t offset = kFirstBar + 4 * static_cast<uint32_t>(index);
  bars_.push_back({.index = index, .size = size, .type = type, .placed = std::nullopt});
  const uint64_t address_bits = AddressBits(bars_.back());
  switch (type) {
    case BarType::k32Bit:
      Make(offset, 4, 0, address_bits & kLow);
      return;
    case BarType::k64BitPrefetchable:
      Make(offset, 4, kBar64Bit | kBarPrefetchable, address_bits & kLow);
      Make(offset + 4, 4, 0, address_bits >> 32);
      return;
    case BarType::kIo:
      Make(offset, 4, kBarIo, address_bits & kLow);
      writable_[kCommand] |= pci_command::kIo;
      return;
  }
}

uint64_t PciConfigSpace::AddressBits(const Bar& bar) {
  const uint64_t flags = bar.type == BarType::kIo ? 0x3 : 0xf;
  return ~(bar.size - 1) & ~flags;
}

uint8_t PciConfigSpace::AddCapability(uint8_t id, std::span<const uint8_t> body,
                                      std::span<const uint8_t> writable) {
  const uint32_t offset = free_;
  free_ = (free_ + 2 + static_cast<uint32_t>(body.size()) + 3) & ~uint32_t{3};
  Make(last_link_, 1, offset);
  last_link_ = offset + 1;
  Make(offset, 1, id);
  for (uint32_t i = 0; i < body.size(); ++i) {
    Make(offset + 2 + i, 1, body[i], i < writable.size() ? writable[i] : 0);
  }
  return static_cast<uint8_t>(offset);
}

void PciConfigSpace::Read(uint32_t offset, std::span<std::byte> to) const {
  for (size_t i = 0; i < to.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    to[i] = at < kBytes ? std::byte{bytes_[at]} : std::byte{0xff};
  }
}

void PciConfigSpace::Write(uint32_t offset, std::span<const std::byte> from) {
  for (size_t i = 0; i < from.size(); ++i) {
    const uint64_t at = uint64_t{offset} + i;
    if (at >= kBytes) return;
    const uint8_t mask = writable_[at];
    bytes_[at] =
        static_cast<uint8_t>((bytes_[at] & ~mask) | (std::to_integer<uint8_t>(from[i]) & mask));
  }
}

std::vector<PciBar> PciConfigSpace::bars() const {
  std::vector<PciBar> bars;
  for (const Bar& bar : bars_) {
    const bool wide = bar.type == BarType::k64BitPrefetchable;
    bars.push_back({.index = bar.index,
                    .size = bar.size,
                    .is_io = bar.type == BarType::kIo,
                    .is_64bit = wide,
                    .prefetchable = wide,
                    .address = Address(bar)});
    bars.back().decoded = bars.back().address.value_or(0) != 0 && enabled(bars.back());
  }
  return bars;
}

std::optional<uint64_t> PciConfigSpace::Address(const Bar& bar) const {
  const uint32_t offset = kFirstBar + 4 * static_cast<uint32_t>(bar.index);
  const uint64_t address_bits = AddressBits(bar);
  const uint64_t low = Load(offset, 4) & address_bits;
  // All ones ask for the size (PCI 3.0, 6.2.5.1); no BAR is ever put there, just below 4 GiB or
  // at the end of 64 bits.
  if (low == (address_bits & kLow) && low != 0) return std::nullopt;
  if (bar.type != BarType::k64BitPrefetchable) return low;
  const uint64_t high = Load(offset + 4, 4);
  if (high == address_bits >> 32) return std::nullopt;
  return high << 32 | low;
}

absl::Status PciConfigSpace::PlaceBar(int index, uint64_t address) {
  for (Bar& bar : bars_) {
    if (bar.index != index) continue;
    if (address == 0 || address % bar.size != 0 ||
        (bar.type != BarType::k64BitPrefetchable && address + bar.size - 1 > kLow)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("BAR %d of %#x bytes cannot be placed at %#x", index, bar.size, address));
    }
    bar.placed = address;
    StoreAddress(bar, address);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat("there is no BAR %d", index));
}

void PciConfigSpace::StoreAddress(const Bar& bar, uint64_t address) {
  const uint32_t offset = kFirstBar + 4 * static_cast<uint32_t>(bar.index);
  Store(offset, 4, (Load(offset, 4) & ~AddressBits(bar)) | (address & kLow));
  if (bar.type == BarType::k64BitPrefetchable) Store(offset + 4, 4, address >> 32);
}

void PciConfigSpace::SetInterruptStatus(bool pending) {
  const uint64_t status = Load(kStatus, 2);
  Store(kStatus, 2, pending ? status | kStatusInterrupt : status & ~uint64_t{kStatusInterrupt});
}

uint64_t PciConfigSpace::Load(uint32_t offset, uint32_t size) const {
  return LoadLittleEndian(std::as_bytes(std::span(bytes_)).subspan(offset, size));
}

void PciConfigSpace::Store(uint32_t offset, uint32_t size, uint64_t value) {
  StoreLittleEndian(std::as_writable_bytes(std::span(bytes_)).subspan(offset, size), value);
}

void PciConfigSpace::Reset() {
  bytes_ = initial_;
  for (const Bar& bar : bars_) {
    if (bar.placed.has_value()) StoreAddress(bar, *bar.placed);
  }
}

void PciConfigSpace::Make(uint32_t offset, uint32_t size, uint64_t value, uint64_t writable) {
  StoreLittleEndian(std::as_writable_bytes(std::span(initial_)).subspan(offset, size), value);
  StoreLittleEndian(std::as_writable_bytes(std::span(writable_)).subspan(offset, size), writable);
  StoreLittleEndian(std::as_writable_bytes(std::span(bytes_)).subspan(offset, size), value);
}

}  // namespace vhost

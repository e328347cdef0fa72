// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The configuration space of a PCI function: a type 0 header, base address registers that can be
// sized, and a list of capabilities (PCI Local Bus 3.0, chapter 6). It is 256 bytes and, for each,
// the bits that may be written: sizing a BAR is no more than its low bits being read-only.
//
// Thread safety: none; its function locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "vhost/transport/pci_function.h"

namespace vhost {

namespace pci_command {
inline constexpr uint16_t kIo = 1 << 0;
inline constexpr uint16_t kMemory = 1 << 1;
inline constexpr uint16_t kBusMaster = 1 << 2;
inline constexpr uint16_t kParity = 1 << 6;
inline constexpr uint16_t kSystemError = 1 << 8;
inline constexpr uint16_t kInterruptDisable = 1 << 10;
}  // namespace pci_command

class PciConfigSpace {
 public:
  static constexpr uint32_t kBytes = 256;

  struct Identity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint8_t revision = 0;
    uint32_t class_code = 0;  // 24 bits: class, subclass, interface
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
    uint8_t interrupt_pin = 0;  // 1 is INTA; 0: none
  };
  explicit PciConfigSpace(const Identity& identity);

  // Making the function, before the guest sees it. A 64-bit BAR takes `index` and the next.
  enum class BarType : uint8_t { k32Bit, k64BitPrefetchable, kIo };
  void AddBar(int index, uint64_t size, BarType type);
  // Puts a capability at the end of the list. `body` is what follows the two bytes that every
  // capability begins with, `writable` the bits of it that may be written (missing bytes: none).
  // Returns where in the space the capability begins.
  uint8_t AddCapability(uint8_t id, std::span<const uint8_t> body,
                        std::span<const uint8_t> writable);

  void Read(uint32_t offset, std::span<std::byte> to) const;
  void Write(uint32_t offset, std::span<const std::byte> from);

  uint16_t command() const { return static_cast<uint16_t>(Load(kCommand, 2)); }
  // Whether the command register has accesses of the BAR's kind answered.
  bool enabled(const PciBar& bar) const {
    return (command() & (bar.is_io ? pci_command::kIo : pci_command::kMemory)) != 0;
  }
  std::vector<PciBar> bars() const;
  absl::Status PlaceBar(int index, uint64_t address);
  // The function asserts its interrupt, or would if the command let it.
  void SetInterruptStatus(bool pending);

  // For capabilities whose registers mean something.
  uint64_t Load(uint32_t offset, uint32_t size) const;
  void Store(uint32_t offset, uint32_t size, uint64_t value);

  // Every register as it was made, BARs where they were placed.
  void Reset();

 private:
  static constexpr uint32_t kCommand = 0x04;
  static constexpr uint32_t kStatus = 0x06;
  static constexpr uint32_t kFirstBar = 0x10;
  static constexpr uint32_t kCapabilityPointer = 0x34;

  struct Bar {
    int index;
    uint64_t size;
    BarType type;
    std::optional<uint64_t> placed;
  };
  void Make(uint32_t offset, uint32_t size, uint64_t value, uint64_t writable = 0);
  void StoreAddress(const Bar& bar, uint64_t address);
  std::optional<uint64_t> Address(const Bar& bar) const;
  static uint64_t AddressBits(const Bar& bar);

  std::array<uint8_t, kBytes> bytes_{};
  std::array<uint8_t, kBytes> writable_{};
  std::array<uint8_t, kBytes> initial_{};
  std::vector<Bar> bars_;
  uint32_t last_link_ = kCapabilityPointer;  // where the next capability's offset goes
  uint32_t free_ = 0x40;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The registers of MSI-X (PCI Local Bus 3.0, 6.8.2): message control, table and pending bits, and
// nothing of what they do: MsixDelivery (msix_delivery.h) makes interrupts of them.
//
// Thread safety: none; its function locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace vhost {

// virtio's "no vector" (virtio 1.3, 4.1.5.1.2): whoever has it interrupts nobody.
inline constexpr uint16_t kNoVector = 0xffff;

class MsixTable {
 public:
  static constexpr uint32_t kEntryBytes = 16;
  static constexpr uint16_t kMaxVectors = 2048;
  // Message control: what the guest may write.
  static constexpr uint16_t kEnable = 0x8000;
  static constexpr uint16_t kFunctionMask = 0x4000;

  struct Message {
    uint64_t address = 0;
    uint32_t data = 0;
    friend bool operator==(const Message&, const Message&) = default;
  };

  explicit MsixTable(uint16_t vectors) : entries_(vectors) { Reset(); }

  uint16_t size() const { return static_cast<uint16_t>(entries_.size()); }
  // Bytes of the table and of the pending bits.
  uint32_t table_bytes() const { return size() * kEntryBytes; }
  uint32_t pending_bytes() const { return (size() + 63u) / 64 * 8; }

  // True if that changed anything.
  bool set_control(uint16_t control);
  bool enabled() const { return (control_ & kEnable) != 0; }

  Message message(uint16_t vector) const;
  // MSI-X is on, and neither the vector nor the function is masked.
  bool Sends(uint16_t vector) const;

  void Read(uint64_t offset, std::span<std::byte> to) const;
  // Returns the vector whose entry was written. Aligned accesses of 4 and 8 bytes only, which is
  // all that software may make (PCI 3.0, 6.8.2); others are dropped.
  std::optional<uint16_t> Write(uint64_t offset, std::span<const std::byte> from);

  // Reads pending bits. `pending` is asked for each vector that the access covers.
  void ReadPending(uint64_t offset, std::span<std::byte> to,
                   const std::function<bool(uint16_t)>& pending) const;

  // All vectors masked, MSI-X off.
  void Reset();

 private:
  struct Entry {
    uint32_t words[4];  // address low, address high, data, control
  };
  std::vector<Entry> entries_;
  uint16_t control_ = 0;
};

}  // namespace vhost

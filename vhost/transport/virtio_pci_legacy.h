// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost/device/device.h"

namespace vhost {

// The legacy interface of virtio-pci (virtio 1.3, 4.1.4.10): one block of registers in I/O space,
// with the device's configuration behind them, further on while MSI-X is on. It has 32 features, a
// page number for each ring, and no way to refuse anything.
//
// Thread safety: none; its function locks.
class VirtioPciLegacy {
 public:
  class Function {
   public:
    virtual ~Function() = default;
    virtual void WriteLegacyStatus(uint8_t status) = 0;
    virtual void Notify(uint64_t queue) = 0;
    virtual uint8_t ReadIsr() = 0;
    virtual bool msix_enabled() const = 0;
    // MSI-X vectors of sources: queues, then the configuration (source queue_count()).
    virtual uint16_t vector(int source) const = 0;
    virtual void SetVector(int source, uint16_t vector) = 0;
  };

  VirtioPciLegacy(Device& device, Function& function) : device_(device), function_(function) {}

  void Read(uint64_t offset, std::span<std::byte> to);
  void Write(uint64_t offset, std::span<const std::byte> from);
  // What selects: back to 0.
  void Reset() { queue_select_ = 0; }

 private:
  // Where the device's configuration begins.
  uint32_t header_bytes() const;
  uint64_t ReadRegister(uint32_t offset);
  uint64_t ReadQueueRegister(uint32_t offset) const;
  void WriteRegister(uint32_t offset, uint64_t value);
  void WriteQueueRegister(uint32_t offset, uint64_t value);

  Device& device_;
  Function& function_;
  uint16_t queue_select_ = 0;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost/device/device.h"

namespace vhost {

// The common configuration structure (virtio 1.3, 4.1.4.3): the registers by which a driver sets a
// device up. What they select is kept here; what they say goes to the device, and to the function
// for what belongs to PCI.
//
// Thread safety: none; its function locks.
class VirtioPciCommon {
 public:
  class Function {
   public:
    virtual ~Function() = default;
    virtual void WriteStatus(uint8_t status) = 0;
    virtual void ResetQueue(int queue) = 0;
    // MSI-X vectors of sources: queues, then the configuration (source queue_count()).
    virtual uint16_t vector(int source) const = 0;
    virtual void SetVector(int source, uint16_t vector) = 0;
  };

  VirtioPciCommon(Device& device, Function& function) : device_(device), function_(function) {}

  void Read(uint64_t offset, std::span<std::byte> to) const;
  void Write(uint64_t offset, std::span<const std::byte> from);
  // What selects: back to 0.
  void Reset();

 private:
  uint64_t ReadRegister(uint32_t offset) const;
  uint64_t ReadQueueRegister(uint32_t offset) const;
  void WriteRegister(uint32_t offset, uint64_t value);
  void WriteQueueRegister(uint32_t offset, uint32_t value);

  Device& device_;
  Function& function_;
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint16_t queue_select_ = 0;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vhost/device/device.h"

namespace vhost {

// The registers that version 1 of virtio-mmio has for queues (virtio 1.3, 4.2.4), besides the size:
// a ring is a page number, counted in pages of a size that the driver tells.
//
// Thread safety: none; its transport locks.
class VirtioMmioLegacy {
 public:
  explicit VirtioMmioLegacy(Device& device)
      : device_(device), alignments_(static_cast<size_t>(device.queue_count()), 0) {}

  // Bytes. Drivers write it once, when they find the device, so it stays over resets of the device.
  void WritePageSize(uint32_t bytes) { page_bytes_ = bytes; }
  uint32_t Read(uint64_t offset, int queue) const;
  void Write(uint64_t offset, int queue, uint32_t value);
  // As after power-on.
  void Reset();

 private:
  Device& device_;
  uint32_t page_bytes_ = 0;
  std::vector<uint32_t> alignments_;  // of used rings, bytes
};

}  // namespace vhost

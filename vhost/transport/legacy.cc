// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/legacy.h"

#include <algorithm>

#include "vhost/transport/selected_registers.h"

namespace vhost {

std::optional<uint16_t> TransitionalPciId(DeviceId id) {
  switch (id) {
    case DeviceId::kNet:
      return 0x1000;
    case DeviceId::kBlock:
      return 0x1001;
    case DeviceId::kScsi:
      return 0x1004;
    case DeviceId::kRng:
      return 0x1005;
    case DeviceId::kGpu:
    case DeviceId::kInput:
    case DeviceId::kVsock:
    case DeviceId::kFs:
      break;
  }
  return std::nullopt;
}

VringSetup LegacyVring(uint64_t address, uint16_t size, uint32_t alignment) {
  const VringBytes bytes = BytesOf(VringLayout::kSplit, size);
  const uint64_t driver = address + bytes.desc;
  const uint64_t step = std::max<uint32_t>(alignment, 1);
  return {.size = size,
          .desc = GuestAddress{address},
          .driver = GuestAddress{driver},
          .device = GuestAddress{(driver + bytes.driver + step - 1) / step * step}};
}

void WriteLegacyRing(Device& device, int queue, uint64_t address, uint32_t alignment) {
  if (address == 0) {
    device.ResetQueue(queue);
    return;
  }
  if (device.queue_enabled(queue)) return;
  device.WriteQueueSetup(queue, LegacyVring(address, QueueSize(device, queue), alignment));
  device.EnableQueue(queue);
}

uint64_t LegacyRing(const Device& device, int queue) {
  return device.queue_enabled(queue) ? Value(device.queue_setup(queue).desc) : 0;
}

uint8_t LegacyStatus(const Device& device) {
  return device.status() & static_cast<uint8_t>(~device_status::kFeaturesOk);
}

}  // namespace vhost

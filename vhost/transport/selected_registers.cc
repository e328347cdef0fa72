// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/selected_registers.h"

namespace vhost {
namespace {

GuestAddress VringSetup::*Part(uint32_t half) {
  switch (half / 2) {
    case 0:
      return &VringSetup::desc;
    case 1:
      return &VringSetup::driver;
    case 2:
      return &VringSetup::device;
    default:
      return nullptr;
  }
}

}  // namespace

uint32_t FeatureWord(VirtioFeatures features, uint32_t word) {
  if (word > 3) return 0;
  const uint64_t half = word < 2 ? features.low() : features.high();
  return static_cast<uint32_t>(half >> (32 * (word % 2)));
}

uint16_t QueueSize(const Device& device, int queue) {
  const uint16_t size = device.queue_setup(queue).size;
  return size != 0 ? size : device.queue_max_size(queue);
}

void WriteQueueSize(Device& device, int queue, uint16_t size) {
  VringSetup setup = device.queue_setup(queue);
  setup.size = size;
  device.WriteQueueSetup(queue, setup);
}

uint32_t ReadQueueAddress(const Device& device, int queue, uint32_t half) {
  GuestAddress VringSetup::*part = Part(half);
  if (part == nullptr) return 0;
  const uint64_t address = Value(device.queue_setup(queue).*part);
  return static_cast<uint32_t>(half % 2 == 0 ? address : address >> 32);
}

void WriteQueueAddress(Device& device, int queue, uint32_t half, uint32_t value) {
  GuestAddress VringSetup::*part = Part(half);
  if (part == nullptr) return;
  VringSetup setup = device.queue_setup(queue);
  const uint64_t address = Value(setup.*part);
  const unsigned shift = half % 2 == 0 ? 0 : 32;
  const uint64_t mask = uint64_t{0xffff'ffff} << shift;
  setup.*part = GuestAddress{(address & ~mask) | uint64_t{value} << shift};
  device.WriteQueueSetup(queue, setup);
}

void EnableQueue(Device& device, int queue) {
  if (device.queue_enabled(queue)) return;
  if (device.queue_setup(queue).size == 0) {
    WriteQueueSize(device, queue, device.queue_max_size(queue));
  }
  device.EnableQueue(queue);
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the legacy interfaces of both transports have in common
// (virtio 1.3, 2.7.2, 4.1.4.10, 4.2.4): the driver gives a ring one address, from which the places
// of its three parts follow, and giving it the address 0 takes the queue back.
#pragma once

#include <cstdint>
#include <optional>

#include "vhost/device/device.h"
#include "vhost/features.h"
#include "vhost/vring.h"

namespace vhost {

// The PCI device id of a type that was there before virtio 1 (virtio 1.3, 4.1.2.1); nullopt: it was
// not, so that it has no legacy interface on any transport.
std::optional<uint16_t> TransitionalPciId(DeviceId id);

// The parts of a ring at `address`: the used ring is at the next multiple of `alignment` bytes (0
// as 1) behind the available ring.
VringSetup LegacyVring(uint64_t address, uint16_t size, uint32_t alignment);

// The driver put the ring of `queue` at `address`, with the size that it has: enables the queue, or
// resets it if that is 0. An address that follows another without a 0 between is ignored.
void WriteLegacyRing(Device& device, int queue, uint64_t address, uint32_t alignment);
// Where it is; 0 if the queue is not enabled.
uint64_t LegacyRing(const Device& device, int queue);

// The status that a legacy driver reads: without FEATURES_OK, which it does not know.
uint8_t LegacyStatus(const Device& device);

}  // namespace vhost

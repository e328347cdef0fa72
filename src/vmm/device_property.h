// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <span>

#include "vhost/features.h"

namespace vmm {

// Something that can be said of a device: "mtu=1500" behind its name in --device.
struct DeviceProperty {
  enum class Kind : uint8_t { kText, kSwitch, kNumber };
  const char* name;
  Kind kind;
  const char* meaning;
  const char* otherwise = "";  // what holds if nothing is said, for people; empty: nothing does
  uint64_t min = 0;            // of a number
  uint64_t max = 0;
  vhost::VirtioFeatures features{};  // of a switch: what is not offered when it is off
  bool is_on = true;                 // of a switch, unless something is said
};

// The properties of each type of device, whatever it is attached to.
std::span<const DeviceProperty> NetProperties();
std::span<const DeviceProperty> VsockProperties();
std::span<const DeviceProperty> UserBlockProperties();
std::span<const DeviceProperty> UserNetProperties();
std::span<const DeviceProperty> UserFsProperties();
std::span<const DeviceProperty> UserVsockProperties();
std::span<const DeviceProperty> UserScsiProperties();
std::span<const DeviceProperty> UserRngProperties();
std::span<const DeviceProperty> UserAnyProperties();
// Switches of virtio's features that each type of device has.
std::span<const DeviceProperty> RingFeatureProperties();

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The devices that --device can name, with their properties: spelled as QEMU spells them, where
// QEMU has them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/features.h"

namespace vmm {

enum class DeviceType : uint8_t { kNet, kVsock };
enum class DeviceBus : uint8_t { kPci, kMmio };

struct DeviceProperty {
  enum class Kind : uint8_t { kText, kSwitch, kNumber };
  const char* name;
  Kind kind;
  const char* meaning;  // with the default
  uint64_t min = 0;     // of a number
  uint64_t max = 0;
  vhost::VirtioFeatures features{};  // of a switch: what is not offered when it is off
  bool is_on = true;                 // unless it is said
};

struct DeviceDriver {
  const char* name;
  const char* alias;  // QEMU's other name, or empty
  DeviceType type;
  DeviceBus bus;
  const char* meaning;

  std::span<const DeviceProperty> properties() const;
};

std::span<const DeviceDriver> DeviceCatalog();

// One --device, with names and values that were checked against the catalog.
struct DeviceOption {
  const DeviceDriver* driver = nullptr;

  bool Has(absl::string_view property) const;
  std::string Text(absl::string_view property, absl::string_view otherwise = {}) const;
  bool Switch(absl::string_view property, bool otherwise) const;
  uint64_t Number(absl::string_view property, uint64_t otherwise) const;

  std::map<std::string, std::string> values;  // by property
};

// "virtio-net-pci,id=net0,tap=tap0". INVALID_ARGUMENT says what is wrong and what there is instead.
absl::StatusOr<DeviceOption> ParseDevice(absl::string_view text);

// What "--device help" and "--device NAME,help" print.
std::string DeviceHelp();
std::string DeviceHelp(const DeviceDriver& driver);

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The devices that --device can name, with their properties: spelled as QEMU spells them, where
// QEMU has them. A name is a type of device and what it is attached to:
//
//   virtio-net  x  -pci, -pci-transitional, -pci-non-transitional, -mmio (or -device)
//
// A new type is a row of Types() in device_catalog.cc and its properties in device_property.cc;
// which of the attachments it has follows.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "src/vmm/device_property.h"
#include "vhost/transport/virtio_pci_layout.h"

namespace vmm {

enum class DeviceType : uint8_t {
  kNet,
  kVsock,
  // Served by another process.
  kUserBlock,
  kUserNet,
  kUserFs,
  kUserVsock,
  kUserScsi,
  kUserRng,
  kUserAny,
};
enum class DeviceBus : uint8_t { kPci, kMmio };

// A row for each type of device.
struct DeviceTypeInfo {
  const char* stem;  // of its names: "virtio-net"
  DeviceType type;
  const char* id_stem;   // of the ids that are made up: "net"
  const char* category;  // heading of "--device help"
  const char* meaning;
  // Whether virtio had such devices before version 1, so that they can have the interface of then.
  bool has_legacy;
  std::span<const DeviceProperty> properties;
};

// Which drivers a device is for: those of virtio 1, those from before it, or both. Only types that
// were there before (DeviceTypeInfo::has_legacy) have the choice.
using DeviceForm = vhost::VirtioPciForm;

struct DeviceDriver {
  std::string name;   // "virtio-net-pci"
  std::string alias;  // QEMU's other name, or empty
  const DeviceTypeInfo* info;
  DeviceBus bus;
  std::optional<DeviceForm> form;  // as the name says; none: properties decide
  std::string meaning;
  std::vector<DeviceProperty> properties;

  DeviceType type() const { return info->type; }
};

// Types in their order, attachments within.
const std::vector<DeviceDriver>& DeviceCatalog();

// One --device, with names and values that were checked against the catalog.
struct DeviceOption {
  const DeviceDriver* driver = nullptr;

  bool Has(absl::string_view property) const;
  std::string Text(absl::string_view property, absl::string_view otherwise = {}) const;
  bool Switch(absl::string_view property, bool otherwise) const;
  uint64_t Number(absl::string_view property, uint64_t otherwise) const;
  // By its name, or "disable-legacy" and "disable-modern", or "legacy" of virtio-mmio.
  // INVALID_ARGUMENT: neither interface is left.
  absl::StatusOr<DeviceForm> Form() const;

  std::map<std::string, std::string> values;  // by property
};

// A driver by its name or alias. INVALID_ARGUMENT: there is none; names the nearest.
absl::StatusOr<const DeviceDriver*> FindDriver(absl::string_view name);

// "virtio-net-pci,id=net0,tap=tap0". INVALID_ARGUMENT says what is wrong and what there is instead.
absl::StatusOr<DeviceOption> ParseDevice(absl::string_view text);

// What "--device help" and "--device NAME,help" print.
std::string DeviceHelp();
std::string DeviceHelp(const DeviceDriver& driver);

}  // namespace vmm

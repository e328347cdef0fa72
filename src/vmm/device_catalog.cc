// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_catalog.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace vmm {
namespace {

using Kind = DeviceProperty::Kind;

constexpr DeviceDriver kDrivers[] = {
    {"virtio-net-pci", "", DeviceType::kNet, DeviceBus::kPci,
     "network device on PCI; its queues are served by vhost-net"},
    {"virtio-net-mmio", "virtio-net-device", DeviceType::kNet, DeviceBus::kMmio,
     "network device on virtio-mmio; its queues are served by vhost-net"},
    {"vhost-vsock-pci", "", DeviceType::kVsock, DeviceBus::kPci,
     "vsock device on PCI; its queues are served by vhost-vsock"},
    {"vhost-vsock-mmio", "vhost-vsock-device", DeviceType::kVsock, DeviceBus::kMmio,
     "vsock device on virtio-mmio; its queues are served by vhost-vsock"},
};

constexpr DeviceProperty kNetProperties[] = {
    {"id", Kind::kText, "name in messages and for vhostctl (default net0, net1, ...)"},
    {"tap", Kind::kText,
     "TAP interface, created if it is not there (default: a free tapN); also \"ifname\""},
    {"fds", Kind::kText, "open TAP fds instead, one a queue pair, divided by colons; also \"fd\""},
    {"queues", Kind::kNumber, "queue pairs (default 1)", 1, 64},
    {"mac", Kind::kText,
     "MAC address (default: locally administered, the same for the same --name and id)"},
    {"mtu", Kind::kNumber, "MTU that the guest is told (default: none)", 68, 65535},
    {"vhost", Kind::kText,
     "who serves: require, prefer or never the host kernel (default require)"},
    {"vhostfds", Kind::kText,
     "open /dev/vhost-net fds, one a queue pair, divided by colons; also \"vhostfd\""},
    {"vhostdev", Kind::kText, "path of the vhost node (default /dev/vhost-net)"},
    {"poll-us", Kind::kNumber,
     "microseconds that the host kernel polls before it waits (default 0)", 0, 1'000'000},
    {"sndbuf", Kind::kNumber, "bytes in flight from guest to host (default: the library's)", 0,
     1ULL << 31},
    {"rx_queue_size", Kind::kNumber, "entries of a receive queue (default 256)", 64, 32768},
    {"tx_queue_size", Kind::kNumber, "entries of a transmit queue (default 256)", 64, 32768},
    {"csum", Kind::kSwitch, "checksum offload, guest to host (default on)"},
    {"guest_csum", Kind::kSwitch, "checksum offload, host to guest (default on)"},
    {"tso", Kind::kSwitch,
     "segmentation offload both ways, TCP and UDP, as the TAP has it (default on); also \"gso\""},
    {"mrg_rxbuf", Kind::kSwitch, "mergeable receive buffers (default on)"},
    {"ctrl_vq", Kind::kSwitch, "control queue (default on)"},
};

constexpr DeviceProperty kVsockProperties[] = {
    {"id", Kind::kText, "name in messages and for vhostctl (default vsock0, vsock1, ...)"},
    {"guest-cid", Kind::kNumber, "context id of the guest (default: the first free one)", 3,
     0xFFFF'FFFE},
    {"vhostfd", Kind::kText, "open /dev/vhost-vsock fd"},
    {"vhostdev", Kind::kText, "path of the vhost node (default /dev/vhost-vsock)"},
    {"vhost", Kind::kText,
     "who serves: require, prefer or never the host kernel (default require)"},
    {"seqpacket", Kind::kSwitch, "sequential packet sockets (default on)"},
    {"queue-size", Kind::kNumber, "entries of a queue (default 128)", 16, 32768},
};

constexpr DeviceProperty kPciProperties[] = {
    {"addr", Kind::kNumber, "PCI slot on bus 0 (default: the next free one)", 1, 31},
    {"vectors", Kind::kNumber,
     "MSI-X vectors; 0: no MSI-X, shared interrupt instead (default: one a queue and one)", 0,
     2048},
};

// Further names of properties.
constexpr std::pair<const char*, const char*> kPropertyAliases[] = {
    {"ifname", "tap"},
    {"fd", "fds"},
    {"gso", "tso"},
};

std::vector<DeviceProperty> CollectProperties(DeviceType type, DeviceBus bus) {
  std::vector<DeviceProperty> all;
  const std::span<const DeviceProperty> own =
      type == DeviceType::kNet ? std::span<const DeviceProperty>(kNetProperties)
                               : std::span<const DeviceProperty>(kVsockProperties);
  all.insert(all.end(), own.begin(), own.end());
  if (bus == DeviceBus::kPci) {
    all.insert(all.end(), std::begin(kPciProperties), std::end(kPciProperties));
  }
  return all;
}

bool IsOn(absl::string_view text) { return text == "on" || text == "true" || text == "1"; }
bool IsOff(absl::string_view text) { return text == "off" || text == "false" || text == "0"; }

absl::Status CheckValue(const DeviceProperty& property, absl::string_view value) {
  uint64_t number = 0;
  switch (property.kind) {
    case Kind::kText:
      if (!value.empty()) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(property.name, " needs a value"));
    case Kind::kSwitch:
      if (IsOn(value) || IsOff(value)) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat(property.name, "=", value, ": on or off is needed"));
    case Kind::kNumber:
      if (absl::SimpleAtoi(value, &number) && number >= property.min && number <= property.max) {
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(absl::StrFormat("%s=%s: a number from %d to %d is needed",
                                                        property.name, value, property.min,
                                                        property.max));
  }
  return absl::InternalError("property of no kind");
}

std::string KnownNames(std::span<const DeviceProperty> properties) {
  return absl::StrJoin(properties, ", ", [](std::string* out, const DeviceProperty& property) {
    out->append(property.name);
  });
}

}  // namespace

std::span<const DeviceProperty> DeviceDriver::properties() const {
  // A driver's list is its type's and its bus's, put together once.
  static const std::vector<DeviceProperty> lists[2][2] = {
      {CollectProperties(DeviceType::kNet, DeviceBus::kPci),
       CollectProperties(DeviceType::kNet, DeviceBus::kMmio)},
      {CollectProperties(DeviceType::kVsock, DeviceBus::kPci),
       CollectProperties(DeviceType::kVsock, DeviceBus::kMmio)},
  };
  return lists[static_cast<size_t>(type)][static_cast<size_t>(bus)];
}

std::span<const DeviceDriver> DeviceCatalog() { return kDrivers; }

bool DeviceOption::Has(absl::string_view property) const {
  return values.count(std::string(property)) != 0;
}

std::string DeviceOption::Text(absl::string_view property, absl::string_view otherwise) const {
  const auto found = values.find(std::string(property));
  return found != values.end() ? found->second : std::string(otherwise);
}

bool DeviceOption::Switch(absl::string_view property, bool otherwise) const {
  return Has(property) ? IsOn(Text(property)) : otherwise;
}

uint64_t DeviceOption::Number(absl::string_view property, uint64_t otherwise) const {
  uint64_t number = 0;
  return absl::SimpleAtoi(Text(property), &number) ? number : otherwise;
}

absl::StatusOr<DeviceOption> ParseDevice(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  const std::string& name = parts[0];
  DeviceOption option;
  for (const DeviceDriver& driver : kDrivers) {
    if (name == driver.name || (!name.empty() && name == driver.alias)) option.driver = &driver;
  }
  if (option.driver == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", name, ": no such device; \"--device help\" lists them"));
  }
  const auto properties = option.driver->properties();
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<std::string, std::string> pair =
        absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    std::string key = pair.first;
    for (const auto& [alias, real] : kPropertyAliases) {
      if (key == alias) key = real;
    }
    // "fd" and "vhostfd" of a device with one queue pair are lists of one.
    if (key == "vhostfd" && option.driver->type == DeviceType::kNet) key = "vhostfds";
    const auto property = std::ranges::find_if(
        properties, [&](const DeviceProperty& candidate) { return key == candidate.name; });
    if (property == properties.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--device ", name, ": no property \"",
                                                     pair.first, "\"; there are ",
                                                     KnownNames(properties)));
    }
    if (absl::Status status = CheckValue(*property, pair.second); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--device ", name, ": ", status.message()));
    }
    if (!option.values.emplace(key, pair.second).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device ", name, ": ", pair.first, " is given twice"));
    }
  }
  return option;
}

std::string DeviceHelp() {
  std::string text = "Devices (\"--device NAME,help\" lists the properties of one):\n";
  for (const DeviceDriver& driver : kDrivers) {
    absl::StrAppendFormat(&text, "  %-18s %s%s\n", driver.name, driver.meaning,
                          *driver.alias == '\0' ? "" : absl::StrCat("; also ", driver.alias));
  }
  return text;
}

std::string DeviceHelp(const DeviceDriver& driver) {
  std::string text = absl::StrCat("Properties of ", driver.name, ":\n");
  for (const DeviceProperty& property : driver.properties()) {
    const char* kind = property.kind == Kind::kSwitch   ? "=on|off"
                       : property.kind == Kind::kNumber ? "=N"
                                                        : "=TEXT";
    absl::StrAppendFormat(&text, "  %-18s %s\n", absl::StrCat(property.name, kind),
                          property.meaning);
  }
  return text;
}

}  // namespace vmm

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

constexpr char kWorkerCpus[] =
    "host CPUs of the threads that serve, \"0-3:8\" (default: as this process)";
constexpr char kWorkerNice[] = "nice value of the threads that serve";
constexpr char kWorkerCgroup[] = "cgroup directory of the threads that serve";
constexpr char kPolicy[] = "who serves: require, prefer or never the host kernel (default require)";
constexpr char kFailover[] =
    "another backend takes over when the one that serves fails or stalls (default on)";
constexpr char kPollUs[] =
    "microseconds that a thread polls at most before it sleeps (default: 0 of vhost, 100 of this "
    "process)";
constexpr char kQueueSize[] = "entries of a queue, a power of two (default 256)";
constexpr uint64_t kMostPollUs = 1'000'000;
constexpr uint64_t kMostQueueEntries = 32768;

constexpr DeviceProperty kNetProperties[] = {
    {"id", Kind::kText, "name in messages and for vhostctl (default net0, net1, ...)"},
    {"tap", Kind::kText,
     "TAP interface, made if it is not there (default: a new one); also \"ifname\""},
    {"fds", Kind::kText, "open and attached TAP queues instead, divided by colons; also \"fd\""},
    {"queues", Kind::kNumber, "queue pairs (default 1)", 1, 256},
    {"mac", Kind::kText, "MAC address (default: a random local one)"},
    {"mtu", Kind::kNumber, "MTU that the guest is told (default: none)", 68, 65535},
    {"sndbuf", Kind::kNumber,
     "bytes that may be under way behind the TAP; 0: no limit (default 1048576)", 0, 0x7FFF'FFFF},
    {"vhost", Kind::kText, kPolicy},
    {"failover", Kind::kSwitch, kFailover},
    {"vhostdev", Kind::kText, "path of the vhost node (default /dev/vhost-net)"},
    {"vhostfds", Kind::kText,
     "open vhost nodes instead, one a queue pair, divided by colons; also \"vhostfd\""},
    {"poll-us", Kind::kNumber, kPollUs, 0, kMostPollUs},
    {"queue-size", Kind::kNumber, kQueueSize, 2, kMostQueueEntries},
    {"worker-cpus", Kind::kText, kWorkerCpus},
    {"worker-nice", Kind::kText, kWorkerNice},
    {"worker-cgroup", Kind::kText, kWorkerCgroup},
    {"io-engine", Kind::kText,
     "how this process reads and writes the TAP when it serves the device: auto, syscall or "
     "io_uring (default auto)"},
};

constexpr DeviceProperty kVsockProperties[] = {
    {"id", Kind::kText, "name in messages and for vhostctl (default vsock0, vsock1, ...)"},
    {"uds-path", Kind::kText,
     "unix socket where host programs reach the guest when this process serves the device (needed "
     "for that): PATH and \"CONNECT <port>\"; the guest's calls go to PATH_<port>"},
    {"guest-cid", Kind::kNumber, "context id of the guest (default: the first free one)", 3,
     0xFFFF'FFFE},
    {"vhost", Kind::kText, kPolicy},
    {"failover", Kind::kSwitch, kFailover},
    {"vhostdev", Kind::kText, "path of the vhost node (default /dev/vhost-vsock)"},
    {"vhostfd", Kind::kText, "an open vhost node instead"},
    {"poll-us", Kind::kNumber, kPollUs, 0, kMostPollUs},
    {"queue-size", Kind::kNumber, kQueueSize, 2, kMostQueueEntries},
    {"worker-cpus", Kind::kText, kWorkerCpus},
    {"worker-nice", Kind::kText, kWorkerNice},
    {"worker-cgroup", Kind::kText, kWorkerCgroup},
};

using F = vhost::VirtioFeature;
constexpr DeviceProperty Feature(const char* name, const char* meaning,
                                 vhost::VirtioFeatures features) {
  return {.name = name, .kind = Kind::kSwitch, .meaning = meaning, .features = features};
}

constexpr DeviceProperty FeatureOff(const char* name, const char* meaning,
                                    vhost::VirtioFeatures features) {
  DeviceProperty property = Feature(name, meaning, features);
  property.is_on = false;
  return property;
}

// Features that are offered where the host has them, unless they are switched off (or, of the last,
// once they are switched on).
constexpr DeviceProperty kNetFeatures[] = {
    Feature("csum", "guest leaves checksums to the host", {F::kNetCsum}),
    Feature("guest_csum", "host leaves checksums to the guest", {F::kNetGuestCsum}),
    Feature("gso", "segmentation is left to the other side: all of the following",
            {F::kNetGuestTso4, F::kNetGuestTso6, F::kNetGuestEcn, F::kNetGuestUfo, F::kNetGuestUso4,
             F::kNetGuestUso6, F::kNetHostTso4, F::kNetHostTso6, F::kNetHostEcn, F::kNetHostUfo,
             F::kNetHostUso}),
    Feature("host_tso4", "TCP over IPv4, guest to host", {F::kNetHostTso4}),
    Feature("host_tso6", "TCP over IPv6, guest to host", {F::kNetHostTso6}),
    Feature("host_ecn", "TCP with ECN, guest to host", {F::kNetHostEcn}),
    Feature("host_ufo", "UDP fragmentation, guest to host", {F::kNetHostUfo}),
    Feature("host_uso", "UDP segmentation, guest to host", {F::kNetHostUso}),
    Feature("guest_tso4", "TCP over IPv4, host to guest", {F::kNetGuestTso4}),
    Feature("guest_tso6", "TCP over IPv6, host to guest", {F::kNetGuestTso6}),
    Feature("guest_ecn", "TCP with ECN, host to guest", {F::kNetGuestEcn}),
    Feature("guest_ufo", "UDP fragmentation, host to guest", {F::kNetGuestUfo}),
    Feature("guest_uso4", "UDP segmentation over IPv4, host to guest", {F::kNetGuestUso4}),
    Feature("guest_uso6", "UDP segmentation over IPv6, host to guest", {F::kNetGuestUso6}),
    Feature("mrg_rxbuf", "packets over several receive buffers", {F::kNetMrgRxbuf}),
    Feature("status", "link status", {F::kNetStatus}),
    Feature("ctrl_vq", "control queue", {F::kNetCtrlVq}),
    Feature("ctrl_guest_offloads", "guest switches its offloads while it runs",
            {F::kNetCtrlGuestOffloads}),
    Feature("mq", "more than one queue pair at a time", {F::kNetMq}),
};

constexpr DeviceProperty kVsockFeatures[] = {
    Feature("seqpacket", "sequential packet sockets", {F::kVsockSeqpacket}),
};

constexpr DeviceProperty kCommonFeatures[] = {
    Feature("event_idx", "interrupts and notifications by event index", {F::kEventIdx}),
    Feature("indirect_desc", "indirect descriptors", {F::kIndirectDesc}),
    Feature("queue_reset", "reset of single queues", {F::kRingReset}),
    FeatureOff("packed", "packed rings, which the host kernel cannot serve", {F::kRingPacked}),
    FeatureOff("in_order", "buffers are used in order, which the host kernel does not promise",
               {F::kInOrder}),
};

constexpr DeviceProperty kPciProperties[] = {
    {"addr", Kind::kNumber, "PCI slot on bus 0 (default: the next free one)", 1, 31},
    {"vectors", Kind::kNumber,
     "MSI-X vectors; 0: no MSI-X, shared interrupt instead (default: one a queue and one)", 0,
     2048},
};

// Further names of properties.
constexpr std::pair<const char*, const char*> kPropertyAliases[] = {{"ifname", "tap"},
                                                                    {"fd", "fds"}};

std::vector<DeviceProperty> CollectProperties(DeviceType type, DeviceBus bus) {
  std::vector<DeviceProperty> all;
  const auto add = [&](std::span<const DeviceProperty> some) {
    all.insert(all.end(), some.begin(), some.end());
  };
  const bool is_net = type == DeviceType::kNet;
  add(is_net ? std::span<const DeviceProperty>(kNetProperties) : kVsockProperties);
  if (bus == DeviceBus::kPci) add(kPciProperties);
  add(is_net ? std::span<const DeviceProperty>(kNetFeatures) : kVsockFeatures);
  add(kCommonFeatures);
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
    absl::StrAppendFormat(&text, "  %-26s %s%s\n", absl::StrCat(property.name, kind),
                          property.meaning,
                          property.kind != Kind::kSwitch ? ""
                          : property.is_on               ? " (default on)"
                                                         : " (default off)");
  }
  return text;
}

}  // namespace vmm

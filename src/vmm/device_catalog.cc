// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_catalog.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "src/vmm/nearest_name.h"

namespace vmm {
namespace {

using Kind = DeviceProperty::Kind;

std::span<const DeviceTypeInfo> Types() {
  static const DeviceTypeInfo types[] = {
      {.stem = "virtio-net",
       .type = DeviceType::kNet,
       .id_stem = "net",
       .category = "Network devices",
       .meaning = "network device on a TAP, served by vhost-net or this process",
       .has_legacy = true,
       .properties = NetProperties()},
      {.stem = "vhost-user-net",
       .type = DeviceType::kUserNet,
       .id_stem = "net",
       .category = "Network devices",
       .meaning = "network device with one queue pair, served by another process",
       .has_legacy = false,
       .properties = UserNetProperties()},
      {.stem = "vhost-user-blk",
       .type = DeviceType::kUserBlock,
       .id_stem = "blk",
       .category = "Storage devices",
       .meaning = "disk, served by another process",
       .has_legacy = false,
       .properties = UserBlockProperties()},
      {.stem = "vhost-user-scsi",
       .type = DeviceType::kUserScsi,
       .id_stem = "scsi",
       .category = "Storage devices",
       .meaning = "SCSI host bus adapter, served by another process",
       .has_legacy = false,
       .properties = UserScsiProperties()},
      {.stem = "vhost-user-fs",
       .type = DeviceType::kUserFs,
       .id_stem = "fs",
       .category = "Storage devices",
       .meaning = "shared file system, served by another process",
       .has_legacy = false,
       .properties = UserFsProperties()},
      {.stem = "vhost-vsock",
       .type = DeviceType::kVsock,
       .id_stem = "vsock",
       .category = "Misc devices",
       .meaning = "socket device, served by vhost-vsock or this process",
       .has_legacy = false,
       .properties = VsockProperties()},
      {.stem = "vhost-user-vsock",
       .type = DeviceType::kUserVsock,
       .id_stem = "vsock",
       .category = "Misc devices",
       .meaning = "socket device, served by another process",
       .has_legacy = false,
       .properties = UserVsockProperties()},
      {.stem = "vhost-user-rng",
       .type = DeviceType::kUserRng,
       .id_stem = "rng",
       .category = "Misc devices",
       .meaning = "source of random numbers, served by another process",
       .has_legacy = false,
       .properties = UserRngProperties()},
      {.stem = "vhost-user-device",
       .type = DeviceType::kUserAny,
       .id_stem = "user",
       .category = "Misc devices",
       .meaning = "any device, served by another process",
       .has_legacy = false,
       .properties = UserAnyProperties()},
  };
  return types;
}

// What a device can be attached to.
struct Attachment {
  const char* suffix;
  const char* alias_suffix;  // nullptr: there is no alias
  DeviceBus bus;
  std::optional<DeviceForm> form = std::nullopt;
  const char* meaning = "";  // what it adds to the type's
};

constexpr Attachment kAttachments[] = {
    {.suffix = "-pci", .alias_suffix = nullptr, .bus = DeviceBus::kPci},
    {.suffix = "-pci-transitional",
     .alias_suffix = nullptr,
     .bus = DeviceBus::kPci,
     .form = DeviceForm::kTransitional,
     .meaning = "; for drivers of virtio 1 and from before it"},
    {.suffix = "-pci-non-transitional",
     .alias_suffix = nullptr,
     .bus = DeviceBus::kPci,
     .form = DeviceForm::kModern,
     .meaning = "; for drivers of virtio 1 alone"},
    {.suffix = "-mmio", .alias_suffix = "-device", .bus = DeviceBus::kMmio},
};

constexpr DeviceProperty kPciProperties[] = {
    {.name = "addr",
     .kind = Kind::kNumber,
     .meaning = "PCI slot on bus 0",
     .otherwise = "the next free one",
     .min = 1,
     .max = 31},
    {.name = "vectors",
     .kind = Kind::kNumber,
     .meaning = "MSI-X vectors; 0: no MSI-X, shared interrupt instead",
     .otherwise = "one a queue and one",
     .min = 0,
     .max = 2048},
};

// Of types that may have either interface.
constexpr DeviceProperty kPciFormProperties[] = {
    {.name = "disable-legacy",
     .kind = Kind::kSwitch,
     .meaning = "no interface for drivers from before virtio 1",
     .otherwise = "on, unless disable-modern is"},
    {.name = "disable-modern",
     .kind = Kind::kSwitch,
     .meaning = "no interface for drivers of virtio 1",
     .otherwise = "off",
     .is_on = false},
};
constexpr DeviceProperty kMmioFormProperties[] = {
    {.name = "legacy",
     .kind = Kind::kSwitch,
     .meaning = "version 1 of virtio-mmio, for drivers from before virtio 1; also \"force-legacy\"",
     .otherwise = "off",
     .is_on = false},
};

// Further names of properties.
constexpr std::pair<const char*, const char*> kPropertyAliases[] = {
    {"force-legacy", "legacy"}, {"ifname", "tap"}, {"fd", "fds"}};

DeviceDriver MakeDriver(const DeviceTypeInfo& type, const Attachment& attachment) {
  DeviceDriver driver{.name = absl::StrCat(type.stem, attachment.suffix),
                      .alias = {},
                      .info = &type,
                      .bus = attachment.bus,
                      .form = attachment.form,
                      .meaning = absl::StrCat(type.meaning, attachment.meaning),
                      .properties = {}};
  if (attachment.alias_suffix != nullptr) {
    driver.alias = absl::StrCat(type.stem, attachment.alias_suffix);
  }
  const auto add = [&](std::span<const DeviceProperty> some) {
    driver.properties.insert(driver.properties.end(), some.begin(), some.end());
  };
  add(type.properties);
  const bool is_pci = attachment.bus == DeviceBus::kPci;
  if (is_pci) add(kPciProperties);
  if (type.has_legacy && !attachment.form.has_value()) {
    is_pci ? add(kPciFormProperties) : add(kMmioFormProperties);
  }
  add(RingFeatureProperties());
  return driver;
}

std::vector<DeviceDriver> MakeCatalog() {
  std::vector<DeviceDriver> drivers;
  for (const DeviceTypeInfo& type : Types()) {
    for (const Attachment& attachment : kAttachments) {
      const bool needs_legacy = attachment.form == DeviceForm::kTransitional;
      if (type.has_legacy || !needs_legacy) drivers.push_back(MakeDriver(type, attachment));
    }
  }
  return drivers;
}

// The end of a message about a word that is none of `names`; `help` lists those.
std::string Hint(absl::string_view word, const std::vector<std::string>& names,
                 const std::string& help) {
  const std::string nearest = NearestName(word, names);
  return absl::StrCat(nearest.empty() ? "" : absl::StrCat("; did you mean \"", nearest, "\"?"),
                      nearest.empty() ? "; " : " ", "\"--device ", help, "\" lists them");
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

// The property that `key` names for a device of that type, which may be another's name.
std::string RealName(DeviceType type, absl::string_view key) {
  for (const auto& [alias, real] : kPropertyAliases) {
    if (key == alias) return real;
  }
  // "vhostfd" of a device with one queue pair is a list of one.
  if (key == "vhostfd" && type == DeviceType::kNet) return "vhostfds";
  return std::string(key);
}

absl::Status Add(DeviceOption& option, absl::string_view key, const std::string& value) {
  const std::string name = RealName(option.driver->type(), key);
  const auto& properties = option.driver->properties;
  const auto property = std::ranges::find_if(
      properties, [&](const DeviceProperty& candidate) { return name == candidate.name; });
  if (property == properties.end()) {
    std::vector<std::string> names;
    for (const DeviceProperty& candidate : properties) names.emplace_back(candidate.name);
    return absl::InvalidArgumentError(absl::StrCat(
        "no property \"", key, "\"", Hint(key, names, absl::StrCat(option.driver->name, ",help"))));
  }
  if (absl::Status status = CheckValue(*property, value); !status.ok()) return status;
  if (!option.values.emplace(name, value).second) {
    return absl::InvalidArgumentError(absl::StrCat(key, " is given twice"));
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<DeviceDriver>& DeviceCatalog() {
  static const std::vector<DeviceDriver> drivers = MakeCatalog();
  return drivers;
}

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

absl::StatusOr<DeviceForm> DeviceOption::Form() const {
  if (driver->form.has_value()) return *driver->form;
  if (driver->bus == DeviceBus::kMmio) {
    return Switch("legacy", false) ? DeviceForm::kLegacy : DeviceForm::kModern;
  }
  const bool modern = !Switch("disable-modern", false);
  const bool legacy = !Switch("disable-legacy", modern);
  if (modern && legacy) return DeviceForm::kTransitional;
  if (modern) return DeviceForm::kModern;
  if (legacy) return DeviceForm::kLegacy;
  return absl::InvalidArgumentError(
      "disable-legacy=on,disable-modern=on: no interface is left for any driver");
}

absl::StatusOr<const DeviceDriver*> FindDriver(absl::string_view name) {
  for (const DeviceTypeInfo& type : Types()) {
    if (type.has_legacy || name != absl::StrCat(type.stem, "-pci-transitional")) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", name, ": ", type.id_stem,
                     " devices have no legacy interface (virtio 1.3, 5), and so no transitional "
                     "form; use ",
                     type.stem, "-pci"));
  }
  std::vector<std::string> names;
  for (const DeviceDriver& driver : DeviceCatalog()) {
    if (name == driver.name || (!name.empty() && name == driver.alias)) return &driver;
    names.push_back(driver.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device ", name, ": no such device", Hint(name, names, "help")));
}

absl::StatusOr<DeviceOption> ParseDevice(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  absl::StatusOr<const DeviceDriver*> driver = FindDriver(parts[0]);
  if (!driver.ok()) return driver.status();
  DeviceOption option{.driver = *driver, .values = {}};
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<std::string, std::string> pair =
        absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    if (absl::Status status = Add(option, pair.first, pair.second); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device ", parts[0], ": ", status.message()));
    }
  }
  return option;
}

std::string DeviceHelp() {
  std::string text;
  absl::string_view category;
  for (const DeviceDriver& driver : DeviceCatalog()) {
    if (category != driver.info->category) {
      absl::StrAppend(&text, category.empty() ? "" : "\n", driver.info->category, ":\n");
      category = driver.info->category;
    }
    absl::StrAppend(&text, "name \"", driver.name, "\", bus ",
                    driver.bus == DeviceBus::kPci ? "PCI" : "virtio-mmio");
    if (!driver.alias.empty()) absl::StrAppend(&text, ", alias \"", driver.alias, "\"");
    absl::StrAppend(&text, ", desc \"", driver.meaning, "\"\n");
  }
  absl::StrAppend(&text, "\n\"--device NAME,help\" lists the properties of a device.\n");
  return text;
}

std::string DeviceHelp(const DeviceDriver& driver) {
  std::string text = absl::StrCat(driver.name, " options:\n");
  for (const DeviceProperty& property : driver.properties) {
    const char* kind = property.kind == Kind::kSwitch   ? "=<bool>"
                       : property.kind == Kind::kNumber ? "=<uint>"
                                                        : "=<str>";
    absl::StrAppendFormat(&text, "  %-26s - %s", absl::StrCat(property.name, kind),
                          property.meaning);
    if (property.kind == Kind::kNumber) {
      absl::StrAppend(&text, ", ", property.min, " to ", property.max);
    }
    if (*property.otherwise != '\0') absl::StrAppend(&text, " (default: ", property.otherwise, ")");
    absl::StrAppend(&text, "\n");
  }
  return text;
}

}  // namespace vmm

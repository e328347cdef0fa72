// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/device_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "src/vmm/nearest_name.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(absl::string_view text) {
  return std::string(ParseDevice(text).status().message());
}

TEST(DeviceCatalog, TypesHaveTheNamesOfTheirAttachments) {
  std::set<std::string> names;
  for (const DeviceDriver& driver : DeviceCatalog()) {
    EXPECT_TRUE(names.insert(driver.name).second) << driver.name;
    if (driver.alias.empty()) continue;
    EXPECT_TRUE(names.insert(driver.alias).second) << driver.alias;
  }
  for (const char* name :
       {"virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional",
        "virtio-net-mmio", "virtio-net-device", "vhost-vsock-pci",
        "vhost-vsock-pci-non-transitional", "vhost-vsock-device"}) {
    EXPECT_EQ(names.count(name), 1U) << name;
  }
}

TEST(DeviceCatalog, NoPropertyOfADeviceHasTheNameOfAnother) {
  for (const DeviceDriver& driver : DeviceCatalog()) {
    std::set<std::string> names;
    for (const DeviceProperty& property : driver.properties) {
      EXPECT_TRUE(names.insert(property.name).second) << driver.name << " " << property.name;
    }
  }
}

TEST(DeviceCatalog, WhatDoesNotExistIsAnsweredWithTheNearest) {
  EXPECT_EQ(ErrorOf("virtio-net-pic"),
            "--device virtio-net-pic: no such device; did you mean \"virtio-net-pci\"? "
            "\"--device help\" lists them");
  EXPECT_EQ(ErrorOf("e1000"), "--device e1000: no such device; \"--device help\" lists them");
  EXPECT_EQ(ErrorOf("virtio-net-pci,mak=1"),
            "--device virtio-net-pci: no property \"mak\"; did you mean \"mac\"? "
            "\"--device virtio-net-pci,help\" lists them");
  EXPECT_EQ(ErrorOf("virtio-net-device,vectors=2"),
            "--device virtio-net-device: no property \"vectors\"; "
            "\"--device virtio-net-mmio,help\" lists them");
}

TEST(DeviceCatalog, NamesAndPropertiesSayForWhichDriversADeviceIs) {
  const struct {
    const char* device;
    DeviceForm form;
  } cases[] = {
      {"virtio-net-pci", DeviceForm::kModern},
      {"virtio-net-pci,disable-legacy=on", DeviceForm::kModern},
      {"virtio-net-pci,disable-legacy=off", DeviceForm::kTransitional},
      {"virtio-net-pci,disable-modern=on", DeviceForm::kLegacy},
      {"virtio-net-pci,disable-legacy=off,disable-modern=on", DeviceForm::kLegacy},
      {"virtio-net-pci-transitional", DeviceForm::kTransitional},
      {"virtio-net-pci-non-transitional", DeviceForm::kModern},
      {"virtio-net-mmio", DeviceForm::kModern},
      {"virtio-net-device,legacy=on", DeviceForm::kLegacy},
      {"virtio-net-device,force-legacy=on", DeviceForm::kLegacy},
      {"vhost-vsock-pci", DeviceForm::kModern},
      {"vhost-vsock-device", DeviceForm::kModern},
  };
  for (const auto& [text, form] : cases) {
    const absl::StatusOr<DeviceOption> option = ParseDevice(text);
    ASSERT_TRUE(option.ok()) << option.status();
    EXPECT_EQ(*option->Form(), form) << text;
  }
  const auto neither = ParseDevice("virtio-net-pci,disable-legacy=on,disable-modern=on");
  EXPECT_FALSE(neither->Form().ok());
  EXPECT_THAT(ErrorOf("virtio-net-pci-transitional,disable-legacy=on"), HasSubstr("no property"));
  EXPECT_THAT(ErrorOf("vhost-vsock-pci,disable-legacy=off"), HasSubstr("no property"));
  EXPECT_EQ(ErrorOf("vhost-vsock-pci-transitional"),
            "--device vhost-vsock-pci-transitional: vsock devices have no legacy interface (virtio "
            "1.3, 5), and so no transitional form; use vhost-vsock-pci");
}

TEST(DeviceCatalog, HelpListsAllDevicesAndAllOfTheirProperties) {
  const std::string help = DeviceHelp();
  for (const DeviceDriver& driver : DeviceCatalog()) {
    EXPECT_THAT(help, HasSubstr("name \"" + driver.name + "\", bus "));
    const std::string properties = DeviceHelp(driver);
    EXPECT_THAT(properties, HasSubstr(driver.name + " options:\n"));
    for (const DeviceProperty& property : driver.properties) {
      EXPECT_THAT(properties, HasSubstr(std::string("  ") + property.name + "=<"));
    }
  }
  EXPECT_THAT(DeviceHelp(**FindDriver("virtio-net-pci")),
              HasSubstr("- MTU that the guest is told, 68 to 65535\n"));
  EXPECT_THAT(DeviceHelp(**FindDriver("virtio-net-pci")),
              HasSubstr("- link status (default: on)\n"));
}

TEST(NearestName, IsTheOneWithTheFewestSlips) {
  const std::vector<std::string> names = {"mac", "mq", "mtu", "queues", "queue-size", "host_tso4"};
  EXPECT_EQ(NearestName("mca", names), "mac");
  EXPECT_EQ(NearestName("queue", names), "queues");
  EXPECT_EQ(NearestName("host-tso4", names), "host_tso4");
  EXPECT_EQ(NearestName("queue-sizes", names), "queue-size");
  EXPECT_EQ(NearestName("frobnicate", names), "");
  EXPECT_EQ(NearestName("", names), "");
  EXPECT_EQ(NearestName(std::string(100000, 'q'), names), "");
}

}  // namespace
}  // namespace vmm

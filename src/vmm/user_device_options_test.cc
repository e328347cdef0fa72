// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/user_device_options.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace vmm {
namespace {

using F = vhost::VirtioFeature;

absl::StatusOr<vhost::VhostUserOptions> Make(const std::string& text) {
  absl::StatusOr<DeviceOption> option = ParseDevice(text);
  EXPECT_TRUE(option.ok()) << option.status();
  if (!option.ok()) return option.status();
  return MakeVhostUserOptions(*option, "dev0");
}

std::string Refusal(const std::string& text) {
  const auto made = Make(text);
  return made.ok() ? "none" : std::string(made.status().message());
}

TEST(UserDeviceOptions, ADiskHasItsSocketAndQueues) {
  const auto disk = Make("vhost-user-blk-pci,socket=/run/disk.sock,num-queues=4,queue-size=128");
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(disk->peer.socket, "/run/disk.sock");
  EXPECT_FALSE(disk->peer.server);
  EXPECT_EQ(disk->peer.on_loss, vhost::user::OnLoss::kWait);
  EXPECT_EQ(disk->device.type.id, vhost::DeviceId::kBlock);
  EXPECT_EQ(disk->device.type.queue_count, 4);
  EXPECT_EQ(disk->device.queue_size, 128);
  EXPECT_TRUE(disk->device.type.track_in_flight);
  EXPECT_TRUE(disk->device.withheld.Has(F::kRingPacked));
}

TEST(UserDeviceOptions, EachTypeIsWhatItsNameSays) {
  EXPECT_EQ(Make("vhost-user-fs-mmio,socket=/s,tag=data")->device.type.queue_count, 2);
  EXPECT_EQ(Make("vhost-user-net-device,socket=/s,mtu=1400")->peer.mtu, 1400);
  EXPECT_EQ(Make("vhost-user-vsock-pci,socket=/s,guest-cid=7")->device.type.config.size(), 8U);
  EXPECT_EQ(Make("vhost-user-vsock-pci,socket=/s")->device.type.config_bytes, 8U);
  EXPECT_EQ(Make("vhost-user-scsi-pci,socket=/s,num-queues=2")->device.type.queue_count, 4);
  EXPECT_EQ(Make("vhost-user-rng-pci,socket=/s,server=on")->peer.server, true);
  const auto any = Make("vhost-user-device-pci,socket=/s,virtio-id=24,num-vqs=3,config-size=8");
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_EQ(static_cast<int>(any->device.type.id), 24);
  EXPECT_EQ(any->device.type.queue_count, 3);
  EXPECT_EQ(any->device.type.config_bytes, 8U);
}

TEST(UserDeviceOptions, WhatIsMissingOrWrongIsNamed) {
  EXPECT_NE(Refusal("vhost-user-blk-pci").find("socket"), std::string::npos);
  EXPECT_NE(Refusal("vhost-user-fs-pci,socket=/s").find("tag"), std::string::npos);
  EXPECT_NE(Refusal("vhost-user-device-pci,socket=/s").find("virtio-id"), std::string::npos);
  EXPECT_NE(Refusal("vhost-user-blk-pci,socket=/s,on-loss=panic").find("wait or fail"),
            std::string::npos);
  EXPECT_NE(Refusal("vhost-user-net-pci,socket=/s,mac=zz").find("MAC"), std::string::npos);
}

}  // namespace
}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/device.h"

#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "tests/fakes/device_rig.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_back_end.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/device/virtio_device.h"
#include "vhost/user/backend.h"

namespace vhost::user {
namespace {

using fakes::FakeBackEnd;
using fakes::GuestRam;

class VhostUserDeviceTest : public testing::Test {
 protected:
  VhostUserDeviceTest()
      : path_(testing::TempDir() + "device-" + std::to_string(getpid()) + ".sock"),
        back_end_({.path = path_}) {
    EXPECT_TRUE(memory_.Add(ram_.region()).ok());
  }

  void Build(VhostUserType type) {
    const VhostUserDeviceOptions options{.type = std::move(type)};
    auto peer = Peer::Create(kernel_, VhostUserDevice::PeerOptionsFor(options, {.socket = path_}));
    ASSERT_TRUE(peer.ok()) << peer.status();
    peer_ = *peer;
    auto model = VhostUserDevice::Create(options, peer_);
    ASSERT_TRUE(model.ok()) << model.status();
    std::vector<BackendCandidate> candidates;
    candidates.push_back(
        {BackendKind::kVhostUser, std::unique_ptr<Backend>(new UserBackend(peer_))});
    auto selector = BackendSelector::Create(OffloadPolicy::kPrefer, std::move(candidates));
    ASSERT_TRUE(selector.ok()) << selector.status();
    auto device = VirtioDevice::Create({.name = "blk0",
                                        .kernel = &kernel_,
                                        .memory = &memory_,
                                        .loop = &loop_,
                                        .model = *std::move(model),
                                        .backends = *std::move(selector)});
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    device_->SetInterrupter(&interrupts_, "test");
  }
  void BringUp() {
    device_->WriteStatus(1);
    device_->WriteStatus(3);
    device_->WriteDriverFeatures(1, 1);
    device_->WriteStatus(fakes::DeviceRig::kAgreed);
    for (int queue = 0; queue < device_->queue_count(); ++queue) {
      rings_.push_back(
          std::make_unique<fakes::DriverRing>(ram_, fakes::DriverRing::Options{.size = 16}));
      device_->WriteQueueSetup(queue, rings_.back()->setup());
      device_->EnableQueue(queue);
    }
    device_->WriteStatus(fakes::DeviceRig::kRunning);
    ASSERT_EQ(device_->status(), fakes::DeviceRig::kRunning) << device_->Report().problem;
  }

  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  const std::string path_;
  GuestRam ram_{GuestRam::kDefaultBytes, GuestRam::kDefaultStart, /*shared=*/true};
  GuestMemory memory_;
  fakes::ManualLoop loop_;
  fakes::DeviceRig::Interrupts interrupts_;
  FakeBackEnd back_end_;
  std::shared_ptr<Peer> peer_;
  std::vector<std::unique_ptr<fakes::DriverRing>> rings_;
  std::unique_ptr<VirtioDevice> device_;
};

TEST_F(VhostUserDeviceTest, ADriverBringsItUpAndResetsIt) {
  Build(BlockType(2));
  EXPECT_EQ(device_->device_id(), DeviceId::kBlock);
  EXPECT_TRUE(device_->offered().Has(VirtioFeature::kVersion1));
  EXPECT_TRUE(device_->offered().Has(VirtioFeature::kEventIdx));
  EXPECT_FALSE(device_->offered().Has(VirtioFeature::kRingPacked));
  uint16_t queues = 0;
  device_->ReadConfig(34, std::as_writable_bytes(std::span(&queues, 1)));
  EXPECT_EQ(queues, 2);  // not what the back end says
  BringUp();
  EXPECT_TRUE(back_end_.AwaitServing(1));
  const DeviceReport report = device_->Report();
  EXPECT_EQ(report.vrings[1].served_by, "vhost-user");
  EXPECT_EQ(report.vrings[1].role, "requests1");
  device_->WriteStatus(0);
  EXPECT_TRUE(back_end_.Await([](const auto& state) {
    return !state.requests.empty() && state.requests.back() == "RESET_DEVICE" && state.status == 0;
  }));
}

TEST_F(VhostUserDeviceTest, AChangeOfTheConfigurationInterrupts) {
  Build(BlockType(1));
  BringUp();
  std::vector<std::byte> config(60);
  config[0] = std::byte{0x40};
  const uint32_t generation = device_->config_generation();
  back_end_.ChangeConfig(config);
  while (loop_.Pump() == 0) usleep(1000);
  EXPECT_EQ(interrupts_.changes, 1);
  EXPECT_NE(device_->config_generation(), generation);
  std::byte capacity{};
  device_->ReadConfig(0, {&capacity, 1});
  EXPECT_EQ(capacity, std::byte{0x40});
}

TEST_F(VhostUserDeviceTest, ADriverNoticesNothingOfARestart) {
  Build(BlockType(1));
  BringUp();
  ASSERT_TRUE(back_end_.AwaitServing(0));
  back_end_.Die();
  while (loop_.Pump() == 0) usleep(1000);
  EXPECT_EQ(device_->status(), fakes::DeviceRig::kRunning);
  EXPECT_NE(device_->Report().backend->node.find("away"), std::string::npos);
  back_end_.Listen();
  ASSERT_TRUE(back_end_.AwaitServing(0));
  EXPECT_EQ(device_->status(), fakes::DeviceRig::kRunning);
}

TEST_F(VhostUserDeviceTest, ItIsPausedAndGoesOn) {
  Build(BlockType(1));
  BringUp();
  ASSERT_TRUE(back_end_.AwaitServing(0));
  device_->Pause("test");
  EXPECT_TRUE(back_end_.Await([](const auto& state) { return !state.vrings.at(0).enabled; }));
  ASSERT_TRUE(device_->Resume().ok());
  EXPECT_TRUE(back_end_.AwaitServing(0));
}

TEST_F(VhostUserDeviceTest, AFileSystemSaysItsTag) {
  const auto type = FsType("data", 1);
  ASSERT_TRUE(type.ok());
  Build(*type);
  EXPECT_EQ(device_->queue_count(), 2);
  std::array<char, 4> tag{};
  device_->ReadConfig(0, std::as_writable_bytes(std::span(tag)));
  EXPECT_EQ(std::string(tag.data(), 4), "data");
  EXPECT_FALSE(FsType("", 1).ok());
  EXPECT_FALSE(FsType(std::string(37, 'x'), 1).ok());
}

TEST_F(VhostUserDeviceTest, ANetworkDeviceHasItsOwnMac) {
  const std::array<uint8_t, 6> mac{0x52, 0x54, 0, 1, 2, 3};
  Build(NetType(mac, 1400));
  EXPECT_TRUE(device_->offered().Has(VirtioFeature::kNetMac));
  EXPECT_TRUE(device_->offered().Has(VirtioFeature::kNetMtu));
  EXPECT_FALSE(device_->offered().Has(VirtioFeature::kNetCtrlVq));
  std::array<uint8_t, 6> got{};
  device_->ReadConfig(0, std::as_writable_bytes(std::span(got)));
  EXPECT_EQ(got, mac);
}

}  // namespace
}  // namespace vhost::user

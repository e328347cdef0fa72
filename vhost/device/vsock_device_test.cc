// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/vsock_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/device_rig.h"

namespace vhost {
namespace {

using fakes::DeviceRig;
using fakes::DriverRing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using enum VirtioFeature;

constexpr int kEvent = 2;
const std::string kTransportReset(4, '\0');

class VsockDeviceTest : public ::testing::Test {
 protected:
  VsockDeviceTest() {
    auto vsock = VsockDevice::Create({.guest_cid = 42});
    EXPECT_TRUE(vsock.ok()) << vsock.status();
    vsock_ = vsock->get();
    rig_.Build(*std::move(vsock), 2);
  }
  uint64_t Cid() const {
    uint64_t cid = 0;
    rig_.device->ReadConfig(0, std::as_writable_bytes(std::span(&cid, 1)));
    return cid;
  }
  void SendReset(uint64_t cid = 42) {
    EXPECT_TRUE(vsock_->SendTransportReset(cid).ok());
    rig_.loop.Pump();
  }
  DriverRing& Events() { return *rig_.rings.at(kEvent); }

  DeviceRig rig_{"vsock0"};
  VsockDevice* vsock_ = nullptr;
};

TEST_F(VsockDeviceTest, ShowsItsCidAndWhatItSupports) {
  EXPECT_EQ(rig_.device->device_id(), DeviceId::kVsock);
  EXPECT_EQ(rig_.device->config_size(), 8u);
  EXPECT_EQ(Cid(), 42u);
  EXPECT_EQ(rig_.device->Report().guest_cid, 42u);
  EXPECT_TRUE(rig_.device->offered().Contains({kVersion1, kVsockStream, kVsockSeqpacket}));
}

TEST_F(VsockDeviceTest, RefusesCidsThatNoGuestCanHave) {
  for (const uint64_t cid :
       {uint64_t{0}, uint64_t{2}, uint64_t{0xffffffff}, uint64_t{1} << 32, ~uint64_t{0}}) {
    EXPECT_FALSE(VsockDevice::Create({.guest_cid = cid}).ok()) << cid;
    EXPECT_FALSE(vsock_->SendTransportReset(cid).ok()) << cid;
  }
  EXPECT_EQ(Cid(), 42u);
  EXPECT_THAT(
      std::string(VsockDevice::Create({.guest_cid = 3, .queue_size = 5}).status().message()),
      HasSubstr("queue size of 5"));
}

TEST_F(VsockDeviceTest, KeepsTheEventQueueToItself) {
  rig_.BringUp({kVersion1});
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(rig_.device->Report().vrings[kEvent].role, "event");
  EXPECT_EQ(rig_.device->Report().vrings[kEvent].served_by, "device");
}

TEST_F(VsockDeviceTest, TellsOfATransportReset) {
  for (const bool event_idx : {false, true}) {
    VirtioFeatures features = {kVersion1};
    features.Set(kEventIdx, event_idx);
    rig_.BringUp(features);
    for (int i = 0; i < 3; ++i) Events().Chain().Writable(8).Publish();
    rig_.Kick(kEvent);
    EXPECT_EQ(Events().used_index(), 0);  // Nothing to say: the buffers stay.
    kernel_abi::EventFd::DrainEventFd(kernel_abi::LinuxKernel(), rig_.device->call_fd(kEvent));
    SendReset();
    const auto used = Events().TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->text(), kTransportReset);
    EXPECT_FALSE(Events().TakeUsed().has_value());
    EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(rig_.device->call_fd(kEvent)));
    rig_.device->WriteStatus(0);
  }
}

TEST_F(VsockDeviceTest, KeepsAResetUntilThereIsABufferForIt) {
  rig_.BringUp({kVersion1});
  SendReset();
  SendReset();  // One event tells as much as two.
  Events().Chain().Writable(4).Publish();
  EXPECT_TRUE(Events().KickWanted());
  rig_.Kick(kEvent);
  EXPECT_EQ(Events().TakeUsed()->text(), kTransportReset);
  Events().Chain().Writable(4).Publish();
  rig_.Kick(kEvent);
  EXPECT_FALSE(Events().TakeUsed().has_value());
}

TEST_F(VsockDeviceTest, SendsAResetThatCameBeforeTheDriver) {
  SendReset();
  rig_.Ack({kVersion1});
  rig_.AddQueue(kEvent).Chain().Writable(4).Publish();
  rig_.device->WriteStatus(DeviceRig::kRunning);
  rig_.loop.Pump();
  EXPECT_EQ(Events().TakeUsed()->text(), kTransportReset);
}

TEST_F(VsockDeviceTest, ForgetsAResetWhenTheDeviceIsReset) {
  rig_.BringUp({kVersion1});
  SendReset();
  rig_.device->WriteStatus(0);
  rig_.BringUp({kVersion1});
  Events().Chain().Writable(4).Publish();
  rig_.Kick(kEvent);
  EXPECT_FALSE(Events().TakeUsed().has_value());
}

TEST_F(VsockDeviceTest, TellsOfANewCid) {
  rig_.BringUp({kVersion1});
  const uint32_t generation = rig_.device->config_generation();
  Events().Chain().Writable(4).Publish();
  SendReset(77);
  EXPECT_EQ(Cid(), 77u);
  EXPECT_NE(rig_.device->config_generation(), generation);
  EXPECT_EQ(rig_.interrupts.changes, 1);
  EXPECT_EQ(Events().TakeUsed()->text(), kTransportReset);
}

TEST_F(VsockDeviceTest, NeedsResetWhenAnEventBufferIsTooSmall) {
  rig_.BringUp({kVersion1});
  Events().Chain().Readable("abcd").Writable(3).Publish();
  SendReset();
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 2 (event): a buffer too small"));
}

TEST_F(VsockDeviceTest, NeedsResetWhenTheEventRingIsBroken) {
  rig_.BringUp({kVersion1});
  Events().PutAvailableIndex(1000);
  SendReset();
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(rig_.state->running);
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Drivers from before virtio 1: no FEATURES_OK, 32 features, and nothing that could be refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "vhost/device/echo_model_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint8_t kFound = device_status::kAcknowledge | device_status::kDriver;

class VirtioDeviceLegacyTest : public VirtioDeviceTest {
 protected:
  // Up to DRIVER_OK with all queues.
  void BringUpLegacy(VirtioFeatures acked) {
    device().WriteLegacyStatus(kFound);
    device().WriteDriverFeatures(0, static_cast<uint32_t>(acked.low()));
    for (int queue = 0; queue < device().queue_count(); ++queue) rig_.AddQueue(queue);
    device().WriteLegacyStatus(kFound | device_status::kDriverOk);
    rig_.loop.Pump();
  }
};

TEST_F(VirtioDeviceLegacyTest, RunsWithoutFeaturesOk) {
  BringUpLegacy({VirtioFeature::kNetMrgRxbuf});
  EXPECT_EQ(device().status(), kRunning) << rig_.Problem();
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(device().acked(), VirtioFeatures{VirtioFeature::kNetMrgRxbuf});
  EXPECT_EQ(*model_->prepared, VirtioFeatures{VirtioFeature::kNetMrgRxbuf});
  local_ring().Chain().Readable("hello").Writable(8).Publish();
  rig_.Kick(kLocalQueue);
  EXPECT_EQ(local_ring().TakeUsed()->text(), "hello");
  EXPECT_FALSE(device().Report().offered.Has(VirtioFeature::kVersion1));
}

TEST_F(VirtioDeviceLegacyTest, TakesFeaturesUntilDriverOkAndDropsWhatWasNotOffered) {
  device().WriteLegacyStatus(kFound);
  device().WriteDriverFeatures(0, 0xffff'ffff);
  // Beyond what such a driver sees; somebody uses both interfaces at once.
  device().WriteDriverFeatures(1, 0xffff'ffff);
  device().WriteLegacyStatus(kFound | device_status::kFeaturesOk);  // which it does not know
  EXPECT_EQ(device().status(), kFound);
  device().WriteLegacyStatus(kFound | device_status::kDriverOk);
  EXPECT_EQ(device().status(), kRunning) << rig_.Problem();
  EXPECT_EQ(device().acked(), device().offered_to_legacy());
  device().WriteDriverFeatures(0, 0);
  EXPECT_EQ(device().acked(), device().offered_to_legacy());
}

TEST_F(VirtioDeviceLegacyTest, NeedsResetWhereTheTypeCannotServeWhatItAcked) {
  BringUpLegacy({VirtioFeature::kNetCsum});
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("CSUM without MRG_RXBUF"));
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(VirtioDeviceLegacyTest, NeedsResetForARingThatIsNowhere) {
  device().WriteLegacyStatus(kFound);
  device().WriteQueueSetup(0, {.size = 64,
                               .desc = GuestAddress{0xffff'ffff'f000},
                               .driver = GuestAddress{0xffff'ffff'f400},
                               .device = GuestAddress{0x1'0000'0000'0000}});
  device().EnableQueue(0);
  device().WriteLegacyStatus(kFound | device_status::kDriverOk);
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(VirtioDeviceLegacyTest, TakesQueuesBackOneByOne) {
  BringUpLegacy({});
  device().ResetQueue(0);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(1));
  EXPECT_FALSE(device().queue_enabled(0));
  rig_.AddQueue(0);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
}

TEST_F(VirtioDeviceLegacyTest, IsForAModernDriverAgainAfterAReset) {
  BringUpLegacy({});
  device().WriteLegacyStatus(0);
  EXPECT_EQ(device().status(), 0);
  rig_.Ack({});
  EXPECT_EQ(device().status() & device_status::kFeaturesOk, 0);
  device().WriteStatus(0);
  BringUp();
  EXPECT_EQ(device().status(), kRunning);
}

TEST_F(VirtioDeviceLegacyTest, StaysModernForADriverThatBeganSo) {
  rig_.Ack(Plain());
  device().WriteLegacyStatus(kAgreed | device_status::kDriverOk);
  EXPECT_EQ(device().status(), kRunning);
  EXPECT_TRUE(device().acked().Has(VirtioFeature::kVersion1));
}

TEST_F(VirtioDeviceLegacyTest, KeepsLegacyFeaturesFromModernDrivers) {
  rig_.device.reset();
  auto model = std::make_unique<EchoModel>();
  model_ = model.get();
  model_->more_features = {VirtioFeature::kAnyLayout, VirtioFeature::kNotifyOnEmpty};
  rig_.Build(std::move(model), 4);
  EXPECT_TRUE((device().offered() & model_->more_features).empty());
  EXPECT_TRUE(device().offered_to_legacy().Contains(model_->more_features));
  rig_.Ack(Plain() | VirtioFeatures{VirtioFeature::kAnyLayout});
  EXPECT_THAT(rig_.Problem(), HasSubstr("VIRTIO_F_ANY_LAYOUT"));
}

TEST_F(VirtioDeviceLegacyTest, ItsStateCanBeSavedAndRestored) {
  BringUpLegacy({VirtioFeature::kNetMrgRxbuf});
  device().Pause("test");
  const absl::StatusOr<DeviceState> state = device().SaveState();
  ASSERT_TRUE(state.ok()) << state.status();
  device().WriteLegacyStatus(0);
  ASSERT_TRUE(device().RestoreState(*state).ok());
  ASSERT_TRUE(device().Resume().ok());
  EXPECT_EQ(device().status(), kRunning);
  device().ResetQueue(1);  // which it may, being a legacy driver still
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0));
}

}  // namespace
}  // namespace vhost

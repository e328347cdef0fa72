// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// What a driver, a backend or the machine can do to a device.
#include "vhost/device/virtio_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/driver_ring.h"
#include "vhost/device/echo_model_fixture.h"

namespace vhost {
namespace {

using fakes::DriverRing;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(VirtioDeviceTest, NeedsResetWhenTheBackendCannotStart) {
  rig_.state->start_error = absl::ResourceExhaustedError("/dev/vhost-net: ENOMEM");
  rig_.Ack(Plain());
  rig_.AddQueue(0);
  device().WriteStatus(kRunning);
  EXPECT_EQ(device().status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(rig_.Problem(), HasSubstr("kernel backend: /dev/vhost-net: ENOMEM"));
  EXPECT_EQ(rig_.interrupts.changes, 1);
  // A reset, and another try.
  rig_.state->start_error = absl::OkStatus();
  device().WriteStatus(0);
  EXPECT_THAT(rig_.Problem(), IsEmpty());
  BringUp();
}

TEST_F(VirtioDeviceTest, NeedsResetWhenItsModelCannotPrepare) {
  model_->prepare_error = absl::InternalError("tap0: gone");
  rig_.Ack(Plain());
  rig_.AddQueue(0);
  device().WriteStatus(kRunning);
  EXPECT_EQ(device().status(), kRunning | device_status::kNeedsReset);
  EXPECT_EQ(rig_.Problem(), "tap0: gone");
  EXPECT_EQ(rig_.state->starts, 0);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenAQueueCannotBeWatched) {
  rig_.loop.fail_next_watch = true;
  rig_.Ack(Plain());
  rig_.AddQueue(0);
  rig_.AddQueue(kLocalQueue);
  device().WriteStatus(kRunning);
  EXPECT_EQ(device().status(), kRunning | device_status::kNeedsReset);
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenDriverOkComesBeforeFeaturesOk) {
  device().WriteStatus(device_status::kAcknowledge | device_status::kDriverOk);
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("DRIVER_OK without FEATURES_OK"));
  EXPECT_EQ(rig_.state->starts, 0);
}

TEST_F(VirtioDeviceTest, NeedsResetWhenTheBackendFindsARingBroken) {
  BringUp();
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_EQ(device().status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 1 (q1): the kernel backend found the ring broken"));
  EXPECT_EQ(rig_.interrupts.changes, 1);
  EXPECT_EQ(rig_.state->errors[1], 1u);
  EXPECT_FALSE(rig_.state->running);
  // Told once; more of it is only counted.
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_EQ(rig_.interrupts.changes, 1);
  EXPECT_EQ(rig_.state->errors[1], 2u);
}

TEST_F(VirtioDeviceTest, TakesAnErrorOfARunThatIsOverForWhatItIs) {
  BringUp();
  rig_.backend->SignalError(1);
  device().WriteStatus(0);
  rig_.loop.Pump();
  EXPECT_EQ(device().status(), 0);
  EXPECT_THAT(rig_.Problem(), IsEmpty());
}

TEST_F(VirtioDeviceTest, NeedsResetWhenItsOwnRingIsBroken) {
  BringUp();
  local_ring().PutAvailable(99);
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 4 (q4): available entry 0 (head 99)"));
  EXPECT_FALSE(rig_.state->running);
  const int served = model_->served;
  device().Notify(kLocalQueue);
  EXPECT_LE(rig_.loop.Pump(), 2);
  EXPECT_EQ(model_->served, served);
  device().WriteStatus(0);
  BringUp();
}

TEST_F(VirtioDeviceTest, StopsForADriverThatGivesUp) {
  BringUp();
  device().WriteStatus(kRunning | device_status::kFailed);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_EQ(device().status(), kRunning | device_status::kFailed);
}

struct HostileSetup {
  const char* name;
  int queue;
  std::function<void(VringSetup&)> change;
  const char* message;
};
void PrintTo(const HostileSetup& row, std::ostream* out) { *out << row.name; }

const HostileSetup kHostileSetups[] = {
    {"SizeZero", 0, [](VringSetup& s) { s.size = 0; }, "queue size 0"},
    {"SizeNoPowerOfTwo", 0, [](VringSetup& s) { s.size = 12; }, "queue size 12"},
    {"SizeAboveTheLargestOffered", 0, [](VringSetup& s) { s.size = 128; }, "more than the 64"},
    {"SizeLargestNumber", 1, [](VringSetup& s) { s.size = 0xffff; }, "more than the 64"},
    {"DescOutsideMemory", 1, [](VringSetup& s) { s.desc = GuestAddress{0x1000}; },
     "descriptor table"},
    {"DescMisaligned", 1, [](VringSetup& s) { s.desc = s.desc + 8; }, "aligned to 16"},
    {"AvailAtTheEndOfTheAddressSpace", 1,
     [](VringSetup& s) { s.driver = GuestAddress{~uint64_t{1}}; }, "available ring"},
    {"UsedMisaligned", 1, [](VringSetup& s) { s.device = s.device + 2; }, "aligned to 4"},
    {"AddressesNeverWritten", 1, [](VringSetup& s) { s = {.size = 16}; }, "descriptor table"},
    {"OfAQueueThatIsNotActive", 2, [](VringSetup& s) { s.size = 3; }, "queue 2 (q2)"},
    {"OfALocalQueue", EchoModel::kLocalQueue, [](VringSetup& s) { s.device = GuestAddress{0}; },
     "queue 4 (q4): used ring"},
};

class HostileSetupTest : public VirtioDeviceTest,
                         public ::testing::WithParamInterface<HostileSetup> {};

TEST_P(HostileSetupTest, NeedsResetAndNoBackendIsAsked) {
  rig_.Ack(Plain());
  for (int queue = 0; queue < 5; ++queue) {
    if (queue != GetParam().queue) {
      rig_.AddQueue(queue);
      continue;
    }
    rig_.rings[queue] = std::make_unique<DriverRing>(rig_.ram, DriverRing::Options{});
    VringSetup setup = rig_.rings[queue]->setup();
    GetParam().change(setup);
    device().WriteQueueSetup(queue, setup);
    device().EnableQueue(queue);
  }
  device().WriteStatus(kRunning);
  EXPECT_EQ(device().status(), kRunning | device_status::kNeedsReset);
  EXPECT_THAT(rig_.Problem(), HasSubstr(GetParam().message));
  EXPECT_EQ(rig_.state->starts, 0);
  device().WriteStatus(0);
  BringUp();
}

INSTANTIATE_TEST_SUITE_P(, HostileSetupTest, ::testing::ValuesIn(kHostileSetups),
                         [](const ::testing::TestParamInfo<HostileSetup>& row) {
                           return std::string(row.param.name);
                         });

TEST_F(VirtioDeviceTest, IgnoresQueuesThatDoNotExist) {
  BringUp();
  for (const int queue : {-1, 5, 1000, 65535}) {
    EXPECT_EQ(device().queue_max_size(queue), 0);
    EXPECT_EQ(device().queue_setup(queue).size, 0);
    EXPECT_FALSE(device().queue_enabled(queue));
    EXPECT_EQ(device().kick_fd(queue), -1);
    device().WriteQueueSetup(queue, {.size = 1});
    device().EnableQueue(queue);
    device().ResetQueue(queue);
    device().Notify(queue);
  }
  EXPECT_EQ(device().status(), kRunning);
}

}  // namespace
}  // namespace vhost

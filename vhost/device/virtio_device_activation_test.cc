// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Devices of a VMM that has a transport of its own.
#include "vhost/device/virtio_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/driver_ring.h"
#include "vhost/device/echo_model_fixture.h"

namespace vhost {
namespace {

using fakes::DriverRing;
using ::testing::HasSubstr;

class ActivationTest : public VirtioDeviceTest {
 protected:
  Activation All() {
    Activation activation{.acked = Plain(), .queues = {}};
    for (int queue = 0; queue < 5; ++queue) {
      rig_.rings[queue] = std::make_unique<DriverRing>(rig_.ram, DriverRing::Options{});
      activation.queues.push_back({.queue = queue, .setup = rig_.rings[queue]->setup()});
    }
    return activation;
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(device().status(), 0);
    EXPECT_FALSE(rig_.state->running);
    EXPECT_TRUE(device().acked().empty());
    EXPECT_FALSE(device().queue_enabled(0));
  }
};

TEST_F(ActivationTest, RunsAtOnceAndStopsAtOnceAndAgain) {
  for (uint32_t i = 0; i < 3; ++i) {
    Activation activation = All();
    activation.queues[0].base = i;
    ASSERT_TRUE(device().Activate(activation).ok());
    EXPECT_EQ(device().status(), kRunning);
    EXPECT_EQ(rig_.state->vrings.at(0).base, i);
    rig_.state->reached[0] = i + 100;
    const std::vector<StoppedVring> stopped = device().Deactivate();
    ASSERT_EQ(stopped.size(), 3u);  // Two of the backend's, and the local one.
    EXPECT_EQ(stopped[0].base, i + 100);
    ExpectNothingHeld();
    EXPECT_TRUE(device().Deactivate().empty());
  }
}

TEST_F(ActivationTest, TakesHostAddresses) {
  Activation activation = All();
  const VringSetup setup = rig_.rings[1]->setup();
  activation.queues[1].setup = HostVringSetup{.size = setup.size,
                                              .desc = rig_.ram.Host(setup.desc),
                                              .driver = rig_.ram.Host(setup.driver),
                                              .device = rig_.ram.Host(setup.device)};
  ASSERT_TRUE(device().Activate(activation).ok());
  EXPECT_EQ(rig_.state->vrings.at(1).vring.setup().device, setup.device);
}

TEST_F(ActivationTest, UsesLentEventFdsUntilItIsOver) {
  auto kick = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  auto call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  Activation activation = All();
  activation.queues[0].kick_fd = kick.get();
  activation.queues[0].call_fd = call.get();
  activation.queues[4].kick_fd = kick.get();
  activation.queues[4].call_fd = call.get();
  ASSERT_TRUE(device().Activate(activation).ok());
  EXPECT_EQ(rig_.state->vrings.at(0).kick_fd, kick.get());
  EXPECT_EQ(rig_.state->vrings.at(0).call_fd, call.get());
  rig_.loop.Pump();
  call.Drain();
  local_ring().Chain().Readable("lent").Writable(8).Publish();
  kick.Signal();
  rig_.loop.Pump();
  EXPECT_EQ(local_ring().TakeUsed()->text(), "lent");
  EXPECT_TRUE(call.Drain());
  device().Deactivate();
  EXPECT_FALSE(rig_.loop.Watches(kick.get()));
  ASSERT_TRUE(device().Activate(All()).ok());
  EXPECT_EQ(rig_.state->vrings.at(0).kick_fd, device().kick_fd(0));
}

TEST_F(ActivationTest, ChangesWhereInterruptsGoWhileItRuns) {
  auto call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ASSERT_TRUE(device().Activate(All()).ok());
  ASSERT_TRUE(device().SetCall(0, call.get()).ok());
  ASSERT_TRUE(device().SetCall(kLocalQueue, call.get()).ok());
  EXPECT_EQ(rig_.state->vrings.at(0).call_fd, call.get());
  rig_.loop.Pump();
  call.Drain();
  local_ring().Chain().Readable("x").Writable(8).Publish();
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_TRUE(call.Drain());
  ASSERT_TRUE(device().SetCall(0, -1).ok());
  EXPECT_EQ(rig_.state->vrings.at(0).call_fd, device().call_fd(0));
  EXPECT_FALSE(device().SetCall(9, -1).ok());
}

TEST_F(ActivationTest, IsAllOrNothing) {
  const auto fails = [this](const Activation& activation, const char* message) {
    const absl::Status status = device().Activate(activation);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    ExpectNothingHeld();
  };
  Activation unknown_feature = All();
  unknown_feature.acked.Set(VirtioFeature::kRingPacked);
  fails(unknown_feature, "VIRTIO_F_RING_PACKED");
  Activation bad_combination = All();
  bad_combination.acked.Set(VirtioFeature::kNetCsum);
  fails(bad_combination, "CSUM without");
  Activation twice = All();
  twice.queues.push_back(twice.queues[0]);
  fails(twice, "queue 0 is given twice");
  Activation no_queue = All();
  no_queue.queues[3].queue = 5;
  fails(no_queue, "there is no queue 5");
  Activation bad_ring = All();
  std::get<VringSetup>(bad_ring.queues[4].setup).size = 3;
  fails(bad_ring, "queue 4 (q4): queue size 3");
  Activation not_memory = All();
  not_memory.queues[1].setup = HostVringSetup{.size = 16};
  fails(not_memory, "not in guest memory");
  rig_.state->start_error = absl::InternalError("backend says no");
  fails(All(), "echo0: kernel backend: backend says no");
  rig_.state->start_error = absl::OkStatus();
  rig_.loop.fail_next_watch = true;
  fails(All(), "no more watches");
  EXPECT_TRUE(device().Activate(All()).ok());
}

TEST_F(ActivationTest, DoesNotMixWithATransportThatRuns) {
  BringUp();
  EXPECT_EQ(device().Activate(All()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(device().status(), kRunning);
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/virtio_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_ring.h"
#include "vhost/device/echo_model_fixture.h"
#include "vhost/epoll_loop.h"

namespace vhost {
namespace {

using fakes::DriverRing;
using fakes::FakeBackend;
using fakes::GuestRam;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- Negotiation -------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, OffersWhatItsBackendSupports) {
  EXPECT_EQ(device().offered(), model_->features());
  rig_.state->cannot = VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso};
  rig_.device.reset();
  Build();
  EXPECT_EQ(device().offered(),
            model_->features() - VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso});
}

TEST_F(VirtioDeviceTest, TakesFeaturesInAnyWordUntilTheyAreAgreed) {
  const VirtioFeatures features =
      Plain() | VirtioFeatures{VirtioFeature::kNetGuestUdpTunnelGso, VirtioFeature::kNetMrgRxbuf};
  rig_.Ack(features);
  EXPECT_EQ(device().status(), kAgreed);
  EXPECT_EQ(device().acked(), features);
  device().WriteDriverFeatures(0, 0xffff'ffff);
  device().WriteDriverFeatures(4, 0xffff'ffff);
  EXPECT_EQ(device().acked(), features);
}

TEST_F(VirtioDeviceTest, RefusesFeaturesThatWereNotOfferedAndNamesThem) {
  rig_.Ack(Plain() | VirtioFeatures{VirtioFeature::kRingPacked});
  EXPECT_EQ(device().status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("VIRTIO_F_RING_PACKED"));
}

TEST_F(VirtioDeviceTest, RefusesALegacyDriver) {
  rig_.Ack({});
  EXPECT_EQ(device().status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("VIRTIO_F_VERSION_1"));
}

TEST_F(VirtioDeviceTest, RefusesWhatItsTypeCannotCombineUntilTheDriverChangesItsMind) {
  rig_.Ack(Plain() | VirtioFeatures{VirtioFeature::kNetCsum});
  EXPECT_EQ(device().status() & device_status::kFeaturesOk, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("CSUM without MRG_RXBUF"));
  rig_.Ack(Plain());
  EXPECT_EQ(device().status(), kAgreed);
  EXPECT_THAT(rig_.Problem(), IsEmpty());
}

TEST_F(VirtioDeviceTest, ClearsNoStatusBitButByReset) {
  rig_.Ack(Plain());
  device().WriteStatus(device_status::kAcknowledge);
  EXPECT_EQ(device().status(), kAgreed);
  device().WriteStatus(0);
  EXPECT_EQ(device().status(), 0);
}

TEST_F(VirtioDeviceTest, LetsNoDriverSetNeedsReset) {
  device().WriteStatus(device_status::kNeedsReset | device_status::kAcknowledge);
  EXPECT_EQ(device().status(), device_status::kAcknowledge);
}

// ---- Start -------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ServesNothingBeforeDriverOk) {
  rig_.Ack(Plain());
  for (int queue = 0; queue < 5; ++queue) rig_.AddQueue(queue);
  device().Notify(0);
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_FALSE(rig_.state->running);
  EXPECT_EQ(model_->served, 0);
}

TEST_F(VirtioDeviceTest, HandsTheActiveQueuesToItsBackendAndServesItsOwn) {
  BringUp();
  EXPECT_TRUE(rig_.state->running);
  EXPECT_EQ(rig_.state->acked, Plain());
  EXPECT_EQ(model_->prepared, Plain());
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(rig_.state->vrings.at(1).kick_fd, device().kick_fd(1));
  EXPECT_EQ(rig_.state->vrings.at(1).call_fd, device().call_fd(1));
  EXPECT_EQ(rig_.state->vrings.at(1).base, 0u);
  EXPECT_EQ(rig_.state->vrings.at(1).vring.setup().desc, rig_.rings[1]->setup().desc);

  local_ring().Chain().Readable("hello").Writable(8).Publish();
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_EQ(local_ring().TakeUsed()->text(), "hello");
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device().call_fd(kLocalQueue)));
}

TEST_F(VirtioDeviceTest, LeavesTheKicksOfABackendsQueueAlone) {
  BringUp();
  device().Notify(0);
  rig_.loop.Pump();
  EXPECT_FALSE(rig_.loop.Watches(device().kick_fd(0)));
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device().kick_fd(0)));
}

TEST_F(VirtioDeviceTest, ServesWhatWasAvailableBeforeTheKickCouldBeSeen) {
  rig_.Ack(Plain());
  rig_.AddQueue(kLocalQueue).Chain().Readable("early").Writable(8).Publish();
  device().WriteStatus(kRunning);
  rig_.loop.Pump();
  EXPECT_EQ(local_ring().TakeUsed()->text(), "early");
}

TEST_F(VirtioDeviceTest, RunsWithTheQueuesThatTheDriverEnabled) {
  rig_.Ack(Plain());
  rig_.AddQueue(1);
  device().WriteStatus(kRunning);
  EXPECT_EQ(device().status(), kRunning);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(1));
}

TEST_F(VirtioDeviceTest, StartsAndStopsQueuesAsTheModelSays) {
  BringUp();
  ASSERT_TRUE(model_->SetSecondPair(true).ok());
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1, 2, 3));
  rig_.state->reached[2] = 17;
  ASSERT_TRUE(model_->SetSecondPair(false).ok());
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  // The rings were not reset: they go on where they stood.
  ASSERT_TRUE(model_->SetSecondPair(true).ok());
  EXPECT_EQ(rig_.state->vrings.at(2).base, 17u);
  EXPECT_EQ(rig_.state->vrings.at(3).base, 0u);
}

TEST_F(VirtioDeviceTest, TakesBackAChangeOfQueuesThatFailsHalfway) {
  BringUp();
  rig_.state->start_vring_errors[3] = absl::ResourceExhaustedError("no more");
  const absl::Status status = model_->SetSecondPair(true);
  EXPECT_THAT(std::string(status.message()), HasSubstr("queue 3 (q3): no more"));
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(device().status(), kRunning);
}

// ---- Reset -------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, IsAsNewAfterAReset) {
  BringUp();
  rig_.state->reached[0] = 7;
  device().Notify(0);
  device().WriteStatus(0);
  EXPECT_EQ(device().status(), 0);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_TRUE(device().acked().empty());
  EXPECT_FALSE(model_->prepared.has_value());
  for (int queue = 0; queue < 5; ++queue) {
    EXPECT_FALSE(device().queue_enabled(queue));
    EXPECT_EQ(device().queue_setup(queue).size, 64);
    EXPECT_EQ(device().queue_setup(queue).desc, GuestAddress{0});
    EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(device().kick_fd(queue)));
    EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(device().call_fd(queue)));
  }
  const int kick = device().kick_fd(0);
  BringUp();
  EXPECT_EQ(device().kick_fd(0), kick);
  EXPECT_EQ(rig_.state->vrings.at(0).base, 0u);
  EXPECT_EQ(device().Report().starts, 2u);
  EXPECT_EQ(device().Report().resets, 1u);
}

TEST_F(VirtioDeviceTest, ServesNoLocalQueueAfterAReset) {
  BringUp();
  local_ring().Chain().Readable("late").Writable(8).Publish();
  device().Notify(kLocalQueue);
  device().WriteStatus(0);
  const int served = model_->served;
  rig_.loop.Pump();
  EXPECT_EQ(model_->served, served);
  EXPECT_FALSE(local_ring().TakeUsed().has_value());
}

TEST_F(VirtioDeviceTest, WatchesItsQueuesOnceHoweverOftenItStarts) {
  BringUp();
  const size_t watches = rig_.loop.watches();
  for (int i = 0; i < 5; ++i) {
    device().WriteStatus(0);
    BringUp();
  }
  EXPECT_EQ(rig_.loop.watches(), watches);
}

TEST_F(VirtioDeviceTest, LeavesNothingBehind) {
  BringUp();
  rig_.device.reset();
  EXPECT_FALSE(rig_.state->running);
  rig_.relay.reset();
  EXPECT_EQ(rig_.loop.watches(), 0u);
  EXPECT_TRUE(rig_.memory.Remove(rig_.ram.region().start, rig_.ram.region().size).ok());
}

// ---- Queue reset (2.6.1) -----------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ResetsAndRestartsOneQueueWhileTheOthersRun) {
  BringUp();
  rig_.state->reached[1] = 5;
  device().ResetQueue(1);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0));
  EXPECT_FALSE(device().queue_enabled(1));
  EXPECT_EQ(device().queue_setup(1).size, 64);
  DriverRing& ring = rig_.AddQueue(1, 32);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 1));
  EXPECT_EQ(rig_.state->vrings.at(1).vring.setup().desc, ring.setup().desc);
  EXPECT_EQ(rig_.state->vrings.at(1).vring.size(), 32);
  EXPECT_EQ(rig_.state->vrings.at(1).base, 0u);
  EXPECT_EQ(rig_.state->starts, 1);
}

TEST_F(VirtioDeviceTest, ResetsAndRestartsALocalQueue) {
  BringUp();
  device().ResetQueue(kLocalQueue);
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  rig_.AddQueue(kLocalQueue).Chain().Readable("again").Writable(8).Publish();
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_EQ(local_ring().TakeUsed()->text(), "again");
}

TEST_F(VirtioDeviceTest, NeedsResetWhenAQueueComesBackBroken) {
  BringUp();
  device().ResetQueue(1);
  device().WriteQueueSetup(1, {.size = 7});
  device().EnableQueue(1);
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(rig_.state->running);
}

TEST_F(VirtioDeviceTest, StopsAllWhenOneQueueCannotBeStopped) {
  BringUp();
  rig_.state->stop_vring_errors[1] = absl::InternalError("stuck");
  device().ResetQueue(1);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(device().queue_enabled(1));
}

TEST_F(VirtioDeviceTest, ResetsNoQueueForADriverThatDidNotNegotiateIt) {
  rig_.Ack({VirtioFeature::kVersion1});
  rig_.AddQueue(0);
  device().WriteStatus(kRunning);
  device().ResetQueue(0);
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0));
  EXPECT_TRUE(device().queue_enabled(0));
}

TEST_F(VirtioDeviceTest, IgnoresASetupOfAQueueThatRuns) {
  BringUp();
  const VringSetup before = device().queue_setup(0);
  device().WriteQueueSetup(0, {.size = 2});
  EXPECT_EQ(device().queue_setup(0).size, before.size);
}

// ---- Configuration space -----------------------------------------------------------------------

TEST_F(VirtioDeviceTest, ReadsZerosBeyondItsConfiguration) {
  model_->config_bytes.fill(std::byte{7});
  std::array<std::byte, 4> four;
  for (const auto& [offset, expected] : std::map<uint32_t, std::array<int, 4>>{
           {0, {7, 7, 7, 7}}, {6, {7, 7, 0, 0}}, {8, {0, 0, 0, 0}}, {0xffff'fffe, {0, 0, 0, 0}}}) {
    four.fill(std::byte{1});
    device().ReadConfig(offset, four);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(four[i], std::byte(expected[i])) << offset << "+" << i;
  }
}

TEST_F(VirtioDeviceTest, IgnoresWritesBeyondItsConfiguration) {
  const std::array<std::byte, 4> four{};
  for (const uint32_t offset : {5u, 8u, 0xffff'fffcu, 0xffff'ffffu}) {
    device().WriteConfig(offset, four);
  }
  device().WriteConfig(4, four);
}

TEST_F(VirtioDeviceTest, TellsOfAChangeOnceADriverRuns) {
  const uint32_t generation = device().config_generation();
  model_->ChangeConfig();
  EXPECT_NE(device().config_generation(), generation);
  EXPECT_EQ(rig_.interrupts.changes, 0);  // virtio 1.3, 2.1.2: silent before DRIVER_OK.
  BringUp();
  model_->ChangeConfig();
  EXPECT_EQ(rig_.interrupts.changes, 1);
}

// ---- Memory ------------------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, FollowsMemoryThatComesAndGoesWhileItRuns) {
  BringUp();
  GuestRam more(1 << 16, 0x8000'0000);
  ASSERT_TRUE(rig_.memory.Add(more.region()).ok());
  EXPECT_EQ(rig_.state->memory->merged().size(), 2u);
  // The local queue reaches it as well.
  const GuestAddress text = more.Allocate(4);
  more.Put(text, std::as_bytes(std::span("hot!", 4)));
  local_ring().PutDesc(0, {Value(text), 4, kernel_abi::kDescFNext, 1});
  local_ring().PutDesc(1, {Value(text), 4, kernel_abi::kDescFWrite, 0});
  local_ring().PutAvailable(0);
  device().Notify(kLocalQueue);
  rig_.loop.Pump();
  EXPECT_TRUE(local_ring().TakeUsed().has_value());
  ASSERT_TRUE(rig_.memory.Remove(more.region().start, more.region().size).ok());
  EXPECT_EQ(rig_.state->memory->merged().size(), 1u);
}

TEST_F(VirtioDeviceTest, KeepsMemoryThatARingIsIn) {
  BringUp();
  const absl::Status status = rig_.memory.Remove(rig_.ram.region().start, rig_.ram.region().size);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("echo0: queue 0 (q0) runs in the memory"));
  EXPECT_EQ(rig_.state->memory->merged().size(), 1u);
  device().WriteStatus(0);
  EXPECT_TRUE(rig_.memory.Remove(rig_.ram.region().start, rig_.ram.region().size).ok());
}

TEST_F(VirtioDeviceTest, RefusesMemoryThatItsBackendCannotTake) {
  rig_.state->memory_error = absl::ResourceExhaustedError("65 regions, max_mem_regions is 64");
  GuestRam more(1 << 16, 0x8000'0000);
  const absl::Status status = rig_.memory.Add(more.region());
  EXPECT_THAT(std::string(status.message()), HasSubstr("echo0: 65 regions"));
  EXPECT_EQ(rig_.memory.table()->merged().size(), 1u);
}

// ---- Report, threads ---------------------------------------------------------------------------

TEST_F(VirtioDeviceTest, TellsWhoServesWhat) {
  BringUp();
  rig_.rings[1]->PutAvailableIndex(3);
  const DeviceReport report = device().Report();
  EXPECT_EQ(report.name, "echo0");
  EXPECT_EQ(report.transport, "test");
  EXPECT_EQ(report.policy, "require");
  EXPECT_EQ(report.status, kRunning);
  EXPECT_EQ(report.guest_cid, 42u);
  ASSERT_TRUE(report.backend.has_value());
  EXPECT_TRUE(report.backend->running);
  ASSERT_EQ(report.vrings.size(), 5u);
  EXPECT_EQ(report.vrings[1].served_by, "kernel");
  EXPECT_EQ(report.vrings[1].indices->avail, 3);
  EXPECT_EQ(report.vrings[1].kick_count, 0u);
  EXPECT_EQ(report.vrings[2].served_by, "none");
  EXPECT_EQ(report.vrings[4].served_by, "device");
  EXPECT_TRUE(report.vrings[4].active);
  device().Notify(1);
  device().Notify(1);
  EXPECT_EQ(device().Report().vrings[1].kick_count, 2u);
  ASSERT_EQ(report.memory.size(), 1u);
}

TEST_F(VirtioDeviceTest, SignalsAllQueuesByOneEventFdIfAsked) {
  ASSERT_TRUE(device().ShareCallFd());
  BringUp();
  EXPECT_FALSE(device().ShareCallFd());  // Too late.
  kernel_abi::EventFd::DrainEventFd(kernel_abi::LinuxKernel(), device().call_fd(0));
  local_ring().Chain().Readable("x").Writable(8).Publish();
  rig_.Kick(kLocalQueue);
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device().call_fd(0)));
  // The reset of one queue does not take another one's interrupt away.
  device().ResetQueue(1);
  EXPECT_TRUE(kernel_abi::EventFd::IsEventFdSignalled(device().call_fd(0)));
  device().WriteStatus(0);
  EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(device().call_fd(0)));
}

TEST(VirtioDeviceThreadsTest, TakesCallsFromManyThreadsBesideItsLoop) {
  // What is checked here is for ThreadSanitizer, and that nothing hangs.
  GuestRam ram;
  GuestMemory memory;
  ASSERT_TRUE(memory.Add(ram.region()).ok());
  auto loop = EpollLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok()) << loop.status();
  auto model = std::make_unique<EchoModel>();
  EchoModel* echo = model.get();
  std::vector<BackendCandidate> candidates;
  candidates.push_back({BackendKind::kKernel,
                        std::make_unique<FakeBackend>(std::make_shared<FakeBackend::State>())});
  auto selector = BackendSelector::Create(OffloadPolicy::kRequire, std::move(candidates));
  ASSERT_TRUE(selector.ok());
  auto device = VirtioDevice::Create({.name = "echo0",
                                      .kernel = &kernel_abi::LinuxKernel(),
                                      .memory = &memory,
                                      .loop = loop->get(),
                                      .model = std::move(model),
                                      .backends = *std::move(selector)});
  ASSERT_TRUE(device.ok()) << device.status();
  DriverRing ring(ram, {});
  const Activation activation{.acked = {VirtioFeature::kVersion1},
                              .queues = {{.queue = 0, .setup = ring.setup()},
                                         {.queue = EchoModel::kLocalQueue, .setup = ring.setup()}}};
  GuestRam more(1 << 16, 0x8000'0000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 100; ++round) {
        (*device)->Activate(activation).IgnoreError();
        (*device)->Notify(EchoModel::kLocalQueue);
        echo->ChangeConfig();
        (*device)->Report();
        (*device)->config_generation();
        if (i == 0) {
          EXPECT_TRUE(memory.Add(more.region()).ok());
          EXPECT_TRUE(memory.Remove(more.region().start, more.region().size).ok());
        }
        (*device)->WriteStatus(0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ((*device)->status(), 0);
  EXPECT_GT((*device)->Report().starts, 0u);
}

}  // namespace
}  // namespace vhost

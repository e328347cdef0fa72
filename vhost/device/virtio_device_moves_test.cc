// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// A running device and its backends: handover, failover, changes of memory, pauses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/driver_ring.h"
#include "vhost/device/echo_model_fixture.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/vsock_device.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr BackendKind kKernel = BackendKind::kKernel;
constexpr BackendKind kInProcess = BackendKind::kInProcess;

class DeviceMovesTest : public ::testing::Test {
 protected:
  DeviceMovesTest() { Build(); }
  void Build() {
    auto model = std::make_unique<EchoModel>();
    model_ = model.get();
    rig_.BuildBoth(std::move(model), 4);
  }
  void BringUp() {
    rig_.BringUp({VirtioFeature::kVersion1, VirtioFeature::kRingReset});
    ASSERT_TRUE(kernel().running);
  }
  VirtioDevice& device() { return *rig_.device; }
  fakes::FakeBackend::State& kernel() { return *rig_.state; }
  fakes::FakeBackend::State& process() { return *rig_.process; }
  absl::Status Move(BackendKind to) { return device().Handover(to, "test").status(); }
  std::vector<std::string> Events() {
    rig_.loop.Pump();
    std::vector<std::string> names;
    for (const DeviceEvent& event : rig_.events) names.push_back(event.report.what);
    return names;
  }
  bool LocalQueueServes() {
    fakes::DriverRing& ring = *rig_.rings.at(EchoModel::kLocalQueue);
    ring.Chain().Readable("GET").Writable(8).Publish();
    rig_.Kick(EchoModel::kLocalQueue);
    return ring.TakeUsed().has_value();
  }

  fakes::DeviceRig rig_{"echo0"};
  EchoModel* model_ = nullptr;
};

TEST_F(DeviceMovesTest, HandsTheRingsOverWhereTheOldBackendLeftOff) {
  BringUp();
  const BackendVring before = kernel().vrings.at(1);
  kernel().reached = {{0, 7}, {1, 65530}};
  const auto report = device().Handover(kInProcess, "by hand");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->from, kKernel);
  EXPECT_EQ(report->to, kInProcess);
  EXPECT_TRUE(report->stopped_us.has_value());
  EXPECT_FALSE(kernel().running);
  ASSERT_TRUE(process().running);
  EXPECT_EQ(process().prepares, 1);
  EXPECT_EQ(process().vrings.at(0).base, 7u);
  EXPECT_EQ(process().vrings.at(1).base, 65530u);
  // The same eventfds: what listens to them (KVM) is not told of the move.
  EXPECT_EQ(process().vrings.at(1).kick_fd, before.kick_fd);
  EXPECT_EQ(process().vrings.at(1).call_fd, before.call_fd);
  EXPECT_EQ(process().acked, kernel().acked);
  EXPECT_EQ(device().status(), fakes::DeviceRig::kRunning);
  EXPECT_EQ(rig_.interrupts.changes, 0);
  EXPECT_TRUE(LocalQueueServes());
  // And back.
  process().reached = {{0, 9}, {1, 3}};
  ASSERT_TRUE(Move(kKernel).ok());
  EXPECT_EQ(kernel().vrings.at(0).base, 9u);
  EXPECT_EQ(kernel().vrings.at(1).base, 3u);
  EXPECT_FALSE(process().running);
  EXPECT_TRUE(LocalQueueServes());
}

TEST_F(DeviceMovesTest, ReportsMovesWithTheirReasons) {
  BringUp();
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(device().Handover(kInProcess, "to look").ok());
    ASSERT_TRUE(Move(kKernel).ok());
  }
  const DeviceReport report = device().Report();
  EXPECT_EQ(report.handover_counts.done, 20u);
  ASSERT_EQ(report.handovers.size(), 16u);
  EXPECT_EQ(report.handovers[14].reason, "to look");
  EXPECT_EQ(report.handovers[14].to, kInProcess);
  EXPECT_EQ(report.handovers[15].cause, HandoverCause::kRequest);
  EXPECT_THAT(report.handovers[15].problem, IsEmpty());
  EXPECT_THAT(report.refusals, IsEmpty());
  ASSERT_TRUE(device().Handover(kInProcess, "to look").ok());
  ASSERT_EQ(device().Report().refusals.size(), 1u);
  EXPECT_THAT(device().Report().refusals[0].reason, HasSubstr("to look"));
  EXPECT_EQ(device().Report().backend->kind, kInProcess);
  EXPECT_THAT(Events(), Contains("handover").Times(21));
  EXPECT_EQ(rig_.events.back().device, "echo0");
  EXPECT_EQ(rig_.events.back().handover->to, kInProcess);
}

TEST_F(DeviceMovesTest, AMoveToWhoServesAlreadyStopsNothing) {
  BringUp();
  const auto report = device().Handover(kKernel, "");
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->stopped_us.has_value());
  EXPECT_EQ(kernel().stops, 0);
}

TEST_F(DeviceMovesTest, ABackendThatIsNotReadyStopsNothing) {
  BringUp();
  process().prepare_error = absl::ResourceExhaustedError("no threads");
  EXPECT_THAT(std::string(Move(kInProcess).message()), HasSubstr("no threads"));
  EXPECT_EQ(kernel().stops, 0);
  EXPECT_TRUE(kernel().running);
  EXPECT_EQ(device().Report().handover_counts.failed, 1u);
  EXPECT_FALSE(device().Report().handovers.back().stopped_us.has_value());
  EXPECT_THAT(Events(), Contains("handover-failed"));
}

TEST_F(DeviceMovesTest, GoesBackToTheOldBackendIfTheNewOneCannotStart) {
  BringUp();
  kernel().reached = {{0, 7}, {1, 8}};
  process().start_error = absl::InternalError("cannot");
  EXPECT_THAT(std::string(Move(kInProcess).message()),
              HasSubstr("echo0: in-process backend: cannot"));
  EXPECT_TRUE(kernel().running);
  EXPECT_EQ(kernel().vrings.at(1).base, 8u);
  EXPECT_EQ(device().status(), fakes::DeviceRig::kRunning);
  EXPECT_TRUE(device().Report().handovers.back().stopped_us.has_value());
  EXPECT_TRUE(LocalQueueServes());
}

TEST_F(DeviceMovesTest, NeedsResetWithBothReasonsIfNeitherCanStart) {
  BringUp();
  process().start_error = absl::InternalError("cannot");
  kernel().start_error = absl::InternalError("no more");
  EXPECT_FALSE(Move(kInProcess).ok());
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("in-process backend: cannot"));
  EXPECT_THAT(rig_.Problem(), HasSubstr("kernel backend: no more"));
  EXPECT_EQ(rig_.interrupts.changes, 1);
  // A reset, and another try.
  kernel().start_error = absl::OkStatus();
  device().WriteStatus(0);
  BringUp();
}

TEST_F(DeviceMovesTest, WhatABackendTookBeforeItsStartFailedIsNotServedTwice) {
  BringUp();
  // It served four entries of ring 0 for a moment.
  kernel().reached = {{0, 0}, {1, 0}};
  process().start_error = absl::InternalError("cannot");
  const VringSetup& setup = rig_.rings.at(0)->setup();
  const uint16_t used = 4;
  rig_.ram.Put(setup.device + 2, std::as_bytes(std::span(&used, 1)));
  EXPECT_FALSE(Move(kInProcess).ok());
  EXPECT_EQ(kernel().vrings.at(0).base, 4u);
  EXPECT_EQ(kernel().vrings.at(1).base, 0u);
}

TEST_F(DeviceMovesTest, ServesOnWhereItWasAskedToAfterAResetOfTheDriver) {
  BringUp();
  ASSERT_TRUE(Move(kInProcess).ok());
  device().WriteStatus(0);
  rig_.BringUp({VirtioFeature::kVersion1});
  EXPECT_TRUE(process().running);
  EXPECT_FALSE(kernel().running);
  // Asked for while nothing runs.
  device().WriteStatus(0);
  ASSERT_TRUE(Move(kKernel).ok());
  rig_.BringUp({VirtioFeature::kVersion1});
  EXPECT_TRUE(kernel().running);
}

TEST_F(DeviceMovesTest, ThePolicyRulesBackendsOut) {
  auto model = std::make_unique<EchoModel>();
  rig_.Build(std::move(model), 4);
  rig_.BringUp({VirtioFeature::kVersion1});
  const absl::Status status = Move(kInProcess);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("offload policy require rules"));
  EXPECT_TRUE(kernel().running);
}

TEST_F(DeviceMovesTest, TriesABackendThatWasRefusedAtCreationAgain) {
  rig_.make_error = absl::PermissionDeniedError("/dev/vhost-net: EACCES");
  std::vector<BackendCandidate> candidates;
  // Refused at first; the process's is there.
  candidates.push_back({kKernel, absl::PermissionDeniedError("/dev/vhost-net: EACCES"), [this] {
                          return rig_.make_error.ok()
                                     ? absl::StatusOr<std::unique_ptr<Backend>>(
                                           std::make_unique<fakes::FakeBackend>(rig_.state))
                                     : rig_.make_error;
                        }});
  candidates.push_back(
      {kInProcess, std::make_unique<fakes::FakeBackend>(rig_.process, kInProcess)});
  auto selector = BackendSelector::Create(OffloadPolicy::kPrefer, std::move(candidates));
  ASSERT_TRUE(selector.ok());
  EXPECT_EQ(selector->current().kind(), kInProcess);
  EXPECT_THAT(std::string(selector->Find(kKernel).status().message()), HasSubstr("EACCES"));
  rig_.make_error = absl::OkStatus();
  ASSERT_TRUE(selector->Find(kKernel).ok());
  EXPECT_EQ(selector->current().kind(), kKernel);
}

// ---- Failover ----------------------------------------------------------------------------------

TEST_F(DeviceMovesTest, ARingThatTheKernelCallsBrokenIsTriedInTheProcess) {
  BringUp();
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_FALSE(kernel().running);
  EXPECT_TRUE(process().running);
  EXPECT_EQ(device().status(), fakes::DeviceRig::kRunning);
  const DeviceReport report = device().Report();
  ASSERT_EQ(report.handovers.size(), 1u);
  EXPECT_EQ(report.handovers[0].cause, HandoverCause::kFailover);
  EXPECT_THAT(report.handovers[0].reason, HasSubstr("queue 1 (q1): the kernel backend found"));
  EXPECT_EQ(report.handover_counts.failovers, 1u);
  EXPECT_EQ(kernel().errors[1], 1u);
  EXPECT_THAT(Events(), Contains("ring-error"));
  // If it is really broken, that is the end.
  rig_.process_backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("the in-process backend found the ring broken"));
  EXPECT_FALSE(kernel().running);
}

TEST_F(DeviceMovesTest, StaysAwayFromABackendThatFailedUntilAsked) {
  BringUp();
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  device().WriteStatus(0);
  rig_.BringUp({VirtioFeature::kVersion1});
  EXPECT_TRUE(process().running);
  EXPECT_THAT(Events(), Contains("fallback"));
  ASSERT_EQ(device().Report().refusals.size(), 1u);
  EXPECT_THAT(device().Report().refusals[0].reason, HasSubstr("found the ring broken"));
  ASSERT_TRUE(Move(kKernel).ok());
  EXPECT_TRUE(kernel().running);
  device().WriteStatus(0);
  rig_.BringUp({VirtioFeature::kVersion1});
  EXPECT_TRUE(kernel().running);
}

TEST_F(DeviceMovesTest, TriesABackendThatFailedAgainWhenTheBackOffIsOver) {
  rig_.failover.back_off_ms = 0;
  Build();
  BringUp();
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_TRUE(process().running);  // It does not go back by itself.
  device().WriteStatus(0);
  rig_.BringUp({VirtioFeature::kVersion1});
  EXPECT_TRUE(kernel().running);
}

TEST_F(DeviceMovesTest, FailoverCanBeTurnedOff) {
  rig_.failover.enabled = false;
  Build();
  BringUp();
  rig_.backend->SignalError(1);
  rig_.loop.Pump();
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(process().running);
}

TEST_F(DeviceMovesTest, AFailoverThatCannotBeIsTheEnd) {
  BringUp();
  process().start_error = absl::InternalError("cannot");
  rig_.backend->SignalError(0);
  rig_.loop.Pump();
  EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
  EXPECT_FALSE(kernel().running);
}

// ---- Memory ------------------------------------------------------------------------------------

TEST_F(DeviceMovesTest, MovesWhereTheMemoryCanBeServed) {
  BringUp();
  kernel().memory_error = absl::ResourceExhaustedError("65 regions: vhost takes 64");
  fakes::GuestRam more(1 << 20, 0x8000'0000);
  ASSERT_TRUE(rig_.memory.Add(more.region()).ok());
  EXPECT_TRUE(process().running);
  EXPECT_EQ(process().memory, rig_.memory.table());
  const HandoverReport last = device().Report().handovers.back();
  EXPECT_EQ(last.cause, HandoverCause::kMemory);
  EXPECT_EQ(last.reason, "65 regions: vhost takes 64");
  EXPECT_TRUE(LocalQueueServes());
  ASSERT_TRUE(rig_.memory.Change({}, {{{more.region().start, more.region().size}}}).ok());
}

TEST_F(DeviceMovesTest, RefusesMemoryThatNobodyCanServe) {
  BringUp();
  kernel().memory_error = absl::ResourceExhaustedError("65 regions: vhost takes 64");
  process().start_error = absl::InternalError("cannot");
  fakes::GuestRam more(1 << 20, 0x8000'0000);
  const auto before = rig_.memory.table();
  EXPECT_FALSE(rig_.memory.Add(more.region()).ok());
  EXPECT_EQ(rig_.memory.table(), before);
  EXPECT_TRUE(kernel().running);
  EXPECT_EQ(kernel().memory, before);
  process().memory_error = absl::ResourceExhaustedError("none");
  EXPECT_FALSE(rig_.memory.Add(more.region()).ok());
}

// ---- Connections -------------------------------------------------------------------------------

TEST_F(DeviceMovesTest, ABackendThatHoldsConnectionsIsClosedWhenLeft) {
  kernel().holds_connections = process().holds_connections = true;
  BringUp();
  ASSERT_EQ(rig_.made, 2);
  ASSERT_TRUE(Move(kInProcess).ok());
  EXPECT_EQ(rig_.made, 2);
  ASSERT_TRUE(Move(kKernel).ok());
  EXPECT_EQ(rig_.made, 3);
  EXPECT_TRUE(kernel().running);
  // The new one's errors are noticed as well.
  rig_.backend->SignalError(0);
  rig_.loop.Pump();
  EXPECT_TRUE(process().running);
  EXPECT_EQ(rig_.made, 4);
}

TEST(VsockMovesTest, TheDriverIsToldThatItsConnectionsAreGone) {
  fakes::DeviceRig rig("vsock0");
  rig.BuildBoth(*VsockDevice::Create({.guest_cid = 3}), 2);
  rig.BringUp({VirtioFeature::kVersion1});
  fakes::DriverRing& events = *rig.rings.at(2);
  events.Chain().Writable(8).Publish();
  rig.Kick(2);
  EXPECT_FALSE(events.TakeUsed().has_value());
  ASSERT_TRUE(rig.device->Handover(kInProcess, "").ok());
  rig.loop.Pump();
  EXPECT_TRUE(events.TakeUsed().has_value());
  // A pause ends nothing.
  events.Chain().Writable(8).Publish();
  rig.device->Pause("");
  ASSERT_TRUE(rig.device->Resume().ok());
  rig.loop.Pump();
  EXPECT_FALSE(events.TakeUsed().has_value());
  // Unless another backend goes on.
  rig.device->Pause("");
  ASSERT_TRUE(rig.device->Handover(kKernel, "").ok());
  ASSERT_TRUE(rig.device->Resume().ok());
  rig.loop.Pump();
  EXPECT_TRUE(events.TakeUsed().has_value());
}

// ---- Pauses ------------------------------------------------------------------------------------

TEST_F(DeviceMovesTest, APausedDeviceServesNothingAndGoesOnWhereItWas) {
  BringUp();
  ASSERT_TRUE(Move(kInProcess).ok());
  process().reached = {{0, 5}, {1, 6}};
  device().Pause("snapshot");
  device().Pause("again");
  EXPECT_FALSE(process().running);
  EXPECT_FALSE(LocalQueueServes());
  EXPECT_TRUE(device().Report().paused);
  EXPECT_EQ(device().status(), fakes::DeviceRig::kRunning);
  ASSERT_TRUE(device().Resume().ok());
  EXPECT_TRUE(process().running);
  EXPECT_EQ(process().vrings.at(1).base, 6u);
  EXPECT_FALSE(device().Report().paused);
  rig_.loop.Pump();
  EXPECT_TRUE(rig_.rings.at(EchoModel::kLocalQueue)->TakeUsed().has_value());
  EXPECT_THAT(Events(), ElementsAre("started", "handover", "paused", "started", "resumed"));
  ASSERT_TRUE(device().Resume().ok());
}

TEST_F(DeviceMovesTest, WhatTheDriverDoesWhileItIsPausedCounts) {
  BringUp();
  device().Pause("");
  device().ResetQueue(1);
  ASSERT_TRUE(model_->SetSecondPair(true).ok());
  ASSERT_TRUE(device().Resume().ok());
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0, 2, 3));
  device().Pause("");
  device().WriteStatus(0);
  rig_.Ack({VirtioFeature::kVersion1});
  rig_.AddQueue(0);
  device().WriteStatus(fakes::DeviceRig::kRunning);
  EXPECT_FALSE(kernel().running);
  ASSERT_TRUE(device().Resume().ok());
  EXPECT_THAT(rig_.OnBackend(), ElementsAre(0));
}

TEST_F(DeviceMovesTest, StaysPausedIfNobodyCanGoOn) {
  BringUp();
  device().Pause("");
  kernel().start_error = process().start_error = absl::InternalError("no");
  EXPECT_FALSE(device().Resume().ok());
  EXPECT_TRUE(device().Report().paused);
  EXPECT_EQ(device().status(), fakes::DeviceRig::kRunning);
  process().start_error = absl::OkStatus();
  EXPECT_TRUE(device().Resume().ok());
  EXPECT_TRUE(process().running);
}

TEST_F(DeviceMovesTest, ADeactivationTellsWhereAPausedDeviceStood) {
  BringUp();
  kernel().reached = {{0, 5}, {1, 6}};
  device().Pause("");
  const std::vector<StoppedVring> stopped = device().Deactivate();
  ASSERT_GE(stopped.size(), 2u);
  EXPECT_EQ(stopped[1].base, 6u);
  EXPECT_THAT(device().Deactivate(), IsEmpty());
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/stall_detector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "vhost/device/echo_model_fixture.h"
#include "vhost/device/watchdog.h"
#include "vhost/epoll_loop.h"

namespace vhost {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr WatchdogOptions kOptions{.period_ms = 1000, .stall_ms = 3000};

// A receive queue 0 and a transmit queue 1 with one worker, looked at once a second.
class StallDetectorTest : public ::testing::Test {
 protected:
  StallDetector::Verdict Look(int after_ms = 1000) {
    now_ += milliseconds(after_ms);
    return detector_.Look(now_, queues_, [this] {
      ++asked_;
      return std::vector<WorkerReport>{{.tid = 7, .queues = {0, 1}, .cpu_time_ns = cpu_ns_}};
    });
  }

  StallDetector detector_{kOptions};
  StallDetector::Clock::time_point now_{};
  std::vector<QueueProgress> queues_ = {{.queue = 0, .avail = 256, .used = 0},
                                        {.queue = 1, .prompt = true}};
  uint64_t cpu_ns_ = 0;
  int asked_ = 0;
};

TEST_F(StallDetectorTest, IsNotAlarmedByBuffersThatWaitForPackets) {
  for (int i = 0; i < 10; ++i) {
    const auto verdict = Look();
    EXPECT_THAT(verdict.kick, IsEmpty());
    EXPECT_THAT(verdict.stalled, IsEmpty());
  }
  EXPECT_EQ(asked_, 0);  // /proc is read only on suspicion.
}

TEST_F(StallDetectorTest, IsNotAlarmedByAQueueThatGetsOn) {
  for (uint16_t i = 0; i < 10; ++i) {
    queues_[1].avail = static_cast<uint16_t>(65530 + 100 * i);
    queues_[1].used = static_cast<uint16_t>(queues_[1].avail - 3);
    cpu_ns_ += 1'000'000'000;
    EXPECT_FALSE(Look().spinning.has_value());
  }
  EXPECT_EQ(asked_, 0);
}

TEST_F(StallDetectorTest, KicksAQueueOnceThenCallsItStalledOnceThenRecovered) {
  Look();
  queues_[1].avail = 5;
  EXPECT_THAT(Look().kick, IsEmpty());
  EXPECT_THAT(Look().kick, ElementsAre(1));
  auto verdict = Look();
  EXPECT_THAT(verdict.kick, IsEmpty());
  EXPECT_THAT(verdict.stalled, IsEmpty());
  EXPECT_THAT(Look().stalled, ElementsAre(1));
  EXPECT_THAT(Look().stalled, IsEmpty());
  EXPECT_THAT(detector_.Report().stalled, ElementsAre(1));
  queues_[1].used = 1;
  EXPECT_THAT(Look().recovered, ElementsAre(1));
  EXPECT_THAT(Look().recovered, IsEmpty());
  const WatchdogReport report = detector_.Report();
  EXPECT_EQ(report.stalls, 1u);
  EXPECT_EQ(report.spins, 0u);
  EXPECT_THAT(report.stalled, IsEmpty());
}

TEST_F(StallDetectorTest, NoticesAWorkerThatSpins) {
  Look();
  queues_[1].avail = 1;
  Look();
  cpu_ns_ += 990'000'000;
  EXPECT_FALSE(Look().spinning.has_value());  // Its time so far may have been of use.
  cpu_ns_ += 990'000'000;
  EXPECT_EQ(Look().spinning, 1);
  EXPECT_EQ(detector_.Report().spins, 1u);
}

TEST_F(StallDetectorTest, AWorkerThatSleepsDoesNotSpin) {
  queues_[1].avail = 1;
  for (int i = 0; i < 10; ++i) {
    cpu_ns_ += 100'000'000;
    EXPECT_FALSE(Look().spinning.has_value());
  }
}

TEST_F(StallDetectorTest, AWorkerMaySpinWhileAnotherOfItsQueuesGetsOn) {
  Look();
  queues_[1].avail = 1;
  Look();
  for (int i = 0; i < 3; ++i) {
    queues_[0].used += 10;
    cpu_ns_ += 600'000'000;  // As much as receiving may take.
    EXPECT_FALSE(Look().spinning.has_value());
  }
  for (int i = 0; i < 20; ++i) {
    queues_[0].used += 10;
    cpu_ns_ += 1'000'000'000;
    if (Look().spinning.has_value()) return;
  }
  FAIL() << "not noticed";
}

TEST_F(StallDetectorTest, TakesNoLateLookForAStall) {
  Look();
  queues_[1].avail = 1;
  Look();
  Look();
  Look();
  // The process was stopped for a minute, and its workers with it.
  EXPECT_THAT(Look(60'000).stalled, IsEmpty());
  EXPECT_THAT(Look().stalled, IsEmpty());
}

TEST_F(StallDetectorTest, ForgetsAQueueThatIsServedNoMore) {
  queues_[1].avail = 1;
  for (int i = 0; i < 3; ++i) Look();
  detector_.Forget();
  EXPECT_THAT(Look().kick, IsEmpty());
  queues_.pop_back();
  Look();
  queues_.push_back({.queue = 1, .prompt = true, .avail = 1});
  EXPECT_THAT(Look().stalled, IsEmpty());
}

TEST(WatchdogTest, LooksInEveryPeriodWhileSomebodyIsRegistered) {
  const auto loop = *EpollLoop::Create();
  const auto watchdog = *Watchdog::Create(*loop, {.period_ms = 2});
  std::atomic<int> looks = 0;
  auto registration = watchdog->Register([&] { ++looks; });
  while (looks < 3) std::this_thread::sleep_for(milliseconds(1));
  registration.reset();
  const int then = looks;
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(looks, then);
}

// ---- What a device does about it ---------------------------------------------------------------

class DeviceStallTest : public ::testing::Test {
 protected:
  void Build(bool both, VirtioFeatures more = {}) {
    rig_.watchdog = Watchdog::Create(rig_.loop, kOptions).value();
    auto model = std::make_unique<EchoModel>();
    model->prompt_queue = 1;
    model->more_features = more;
    both ? rig_.BuildBoth(std::move(model), 4) : rig_.Build(std::move(model), 4);
    rig_.BringUp(VirtioFeatures{VirtioFeature::kVersion1} | more);
    rig_.state->workers = {{.tid = 7, .queues = {0, 1}, .cpu_time_ns = 0}};
    rig_.rings.at(1)->Chain().Readable("packet").Publish();
  }
  void Look(int times, uint64_t cpu_ns = 0) {
    for (int i = 0; i < times; ++i) {
      now_ += milliseconds(1000);
      *rig_.state->workers[0].cpu_time_ns += cpu_ns;
      rig_.device->CheckProgress(now_);
    }
  }
  // Whether queue 1 was kicked since this was last asked.
  bool Kicked() {
    return kernel_abi::EventFd::DrainEventFd(kernel_abi::LinuxKernel(), rig_.device->kick_fd(1));
  }
  DeviceReport Report() const { return rig_.device->Report(); }

  fakes::DeviceRig rig_{"echo0"};
  StallDetector::Clock::time_point now_{};
};

TEST_F(DeviceStallTest, AQueueThatStandsStillIsKickedThenMoved) {
  Build(true);
  Kicked();
  Look(2);
  EXPECT_TRUE(Kicked());
  EXPECT_TRUE(rig_.state->running);
  Look(2);
  EXPECT_TRUE(rig_.process->running);
  ASSERT_EQ(Report().handovers.size(), 1u);
  EXPECT_EQ(Report().handovers[0].cause, HandoverCause::kFailover);
  EXPECT_EQ(Report().handovers[0].reason, "queue 1 (q1): stood still");
  EXPECT_EQ(Report().watchdog->stalls, 1u);
  // Here it is only told.
  Look(10);
  EXPECT_TRUE(rig_.process->running);
  EXPECT_EQ(rig_.device->status(), fakes::DeviceRig::kRunning);
}

TEST_F(DeviceStallTest, ASpinningWorkerIsLeftAtOnce) {
  Build(true);
  Look(3, 990'000'000);
  EXPECT_TRUE(rig_.process->running);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_THAT(Report().handovers.at(0).reason, HasSubstr("uses its CPU time for nothing"));
  EXPECT_EQ(Report().watchdog->spins, 1u);
}

TEST_F(DeviceStallTest, WithoutAnotherBackendASpinningWorkerIsStopped) {
  Build(false);
  Look(3, 990'000'000);
  EXPECT_FALSE(rig_.state->running);
  EXPECT_NE(rig_.device->status() & device_status::kNeedsReset, 0);
  EXPECT_THAT(rig_.Problem(), HasSubstr("queue 1 (q1): the worker of the kernel backend uses"));
}

TEST_F(DeviceStallTest, WithoutAnotherBackendAQueueThatStandsStillIsTold) {
  Build(false);
  Look(20);
  EXPECT_TRUE(rig_.state->running);
  EXPECT_EQ(rig_.device->status(), fakes::DeviceRig::kRunning);
  EXPECT_THAT(Report().watchdog->stalled, ElementsAre(1));
}

TEST_F(DeviceStallTest, ConnectionsAreNotEndedForAQueueThatStandsStill) {
  rig_.state->holds_connections = true;
  Build(true);
  Look(20);
  EXPECT_TRUE(rig_.state->running);
  Look(3, 990'000'000);
  EXPECT_TRUE(rig_.process->running);
}

TEST_F(DeviceStallTest, APackedRingIsWatchedByWhatItsBackendTells) {
  VringPosition& position = rig_.state->positions[1];
  position = {.base = InitialBase(VringLayout::kPacked), .returned = 0};
  Build(true, {VirtioFeature::kRingPacked});
  ASSERT_TRUE(Report().vrings[1].positions.has_value());
  EXPECT_TRUE(Report().vrings[1].positions->waiting);
  EXPECT_FALSE(Report().vrings[0].positions.has_value());  // The backend does not tell.
  // It returns as much as goes round the ring exactly, so it stands where it stood.
  for (int i = 0; i < 10; ++i) {
    position.returned += 32;
    Look(1);
  }
  EXPECT_EQ(Report().watchdog->kicks, 0u);
  Look(2);
  EXPECT_TRUE(rig_.state->running);
  EXPECT_EQ(Report().watchdog->kicks, 1u);
  Look(2);
  EXPECT_TRUE(rig_.process->running);
  EXPECT_EQ(Report().handovers.at(0).reason, "queue 1 (q1): stood still");
}

TEST_F(DeviceStallTest, APausedDeviceIsNotWatched) {
  Build(true);
  Look(2);
  rig_.device->Pause("");
  Look(20);
  ASSERT_TRUE(rig_.device->Resume().ok());
  Look(2);
  EXPECT_TRUE(rig_.state->running);
  EXPECT_EQ(Report().watchdog->stalls, 0u);
}

}  // namespace
}  // namespace vhost

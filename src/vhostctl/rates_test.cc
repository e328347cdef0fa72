// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/rates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vhost/control/sample_report.h"

namespace vhost::ctl {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

Gathered At(double seconds, DeviceReport device) {
  const std::chrono::duration<double> since(seconds);
  return {.processes = {{.socket = "/run/web.sock",
                         .when = std::chrono::steady_clock::time_point(
                             std::chrono::duration_cast<std::chrono::nanoseconds>(since)),
                         .process = {.vm = "web", .pid = 11},
                         .devices = {std::move(device)}}}};
}

TEST(RatesTest, OfAKernelServedQueueComeFromRingAndEventfd) {
  DeviceReport before = control::SampleNet();
  before.backend->vrings[0].data_path.reset();
  DeviceReport after = before;
  // The index passes its end.
  before.vrings[0].indices = VringIndices{.avail = 65530, .used = 65526};
  after.vrings[0].indices = VringIndices{.avail = 20, .used = 10};
  before.vrings[0].kick_count = 100;
  after.vrings[0].kick_count = 140;
  const std::vector<QueueRates> rates = RatesOf(At(10, before), At(12, after));
  ASSERT_FALSE(rates.empty());
  EXPECT_EQ(rates[0].vm, "web");
  EXPECT_EQ(rates[0].role, "rx0");
  EXPECT_EQ(rates[0].depth, 10);
  EXPECT_EQ(rates[0].chains, 10);
  EXPECT_EQ(rates[0].kicks, 20);
  EXPECT_EQ(rates[0].packets, std::nullopt);
}

TEST(RatesTest, OfAnInProcessQueueComeFromItsDataPath) {
  DeviceReport before = control::SampleNet();
  before.backend->vrings = {{.queue = 0, .data_path = DataPathReport{.packets = 10, .calls = 5}}};
  before.backend->workers = {{.tid = 7, .queues = {0}, .cpu_time_ns = 1'000'000'000}};
  DeviceReport after = before;
  DataPathReport& path = *after.backend->vrings[0].data_path;
  path.packets = 110;
  path.calls = 15;
  path.suppressed_calls = 30;
  path.drops = {{"refused", 4}};
  after.backend->workers[0].cpu_time_ns = 1'500'000'000;
  after.watchdog = WatchdogReport{.stalled = {0}};
  const std::vector<QueueRates> rates = RatesOf(At(0, before), At(2, after));
  ASSERT_FALSE(rates.empty());
  EXPECT_EQ(rates[0].packets, 50);
  EXPECT_EQ(rates[0].calls, 5);
  EXPECT_EQ(rates[0].suppressed, 0.75);
  EXPECT_EQ(rates[0].drops, 2);
  EXPECT_EQ(rates[0].cpu, 0.25);
  EXPECT_EQ(rates[0].condition, Condition::kStalled);
}

TEST(RatesTest, SayWhatIsTheMatterWithAQueue) {
  DeviceReport device = control::SampleNet();
  device.watchdog.reset();
  device.backend->vrings.clear();
  device.vrings[0].indices = VringIndices{.avail = 7, .used = 7};
  device.vrings[1].positions.reset();
  device.vrings[1].indices = VringIndices{.avail = 9, .used = 5};
  device.events = {{.what = "stall", .queue = 1, .text = "tx0: because"}};
  const auto look = [](const DeviceReport& before, const DeviceReport& after) {
    return RatesOf(At(1, before), At(2, after));
  };
  auto rates = look(device, device);
  ASSERT_THAT(rates, SizeIs(2));
  EXPECT_EQ(rates[0].condition, Condition::kNoBuffers);
  EXPECT_EQ(rates[1].condition, Condition::kNoProgress);
  EXPECT_EQ(rates[1].cause, "4 chains wait for the kernel backend, which has given none back");
  DeviceReport later = device;
  later.vrings[0].indices->avail = 9;
  later.vrings[1].indices->used = 6;
  rates = look(device, later);
  EXPECT_EQ(rates[0].condition, Condition::kFine);
  EXPECT_EQ(rates[1].condition, Condition::kFine);
  later.watchdog = WatchdogReport{.stalled = {1}};
  rates = look(device, later);
  EXPECT_EQ(rates[1].condition, Condition::kStalled);
  EXPECT_EQ(rates[1].cause, "tx0: because");
  later.backend->vrings = {{.queue = 1, .problem = "a descriptor of 0 bytes"}};
  rates = look(device, later);
  EXPECT_EQ(rates[1].condition, Condition::kBroken);
  EXPECT_EQ(rates[1].cause, "a descriptor of 0 bytes");
}

TEST(RatesTest, NothingIsSaidOfWhatCannotBeCompared) {
  DeviceReport before = control::SampleNet();
  before.backend->vrings = {{.queue = 0, .data_path = DataPathReport{.packets = 10}}};
  DeviceReport after = before;
  after.backend->vrings[0].data_path->packets = 3;  // the backend was made anew
  EXPECT_EQ(RatesOf(At(0, before), At(1, after))[0].packets, std::nullopt);
  EXPECT_THAT(RatesOf(At(1, before), At(1, after)), IsEmpty());
  EXPECT_THAT(RatesOf(Gathered{}, At(1, after)), IsEmpty());
  after.vrings[0].served_by = "in-process";
  after.vrings[1].active = false;
  EXPECT_THAT(RatesOf(At(0, before), At(1, after)), IsEmpty());
}

}  // namespace
}  // namespace vhost::ctl

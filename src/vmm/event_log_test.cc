// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/event_log.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

vhost::DeviceEvent Event(vhost::EventKind kind) {
  return {.device = "net0", .kind = kind, .report = {.time = "", .what = vhost::Name(kind)}};
}

TEST(EventLog, WarnsOfWhatTheOperatorDidNotAskFor) {
  EXPECT_TRUE(IsWarning(Event(vhost::EventKind::kFallback)));
  EXPECT_TRUE(IsWarning(Event(vhost::EventKind::kStall)));
  EXPECT_FALSE(IsWarning(Event(vhost::EventKind::kStarted)));
  EXPECT_FALSE(IsWarning(Event(vhost::EventKind::kPaused)));

  vhost::DeviceEvent handover = Event(vhost::EventKind::kHandover);
  handover.handover.emplace();
  EXPECT_FALSE(IsWarning(handover)) << "asked for";
  handover.handover->cause = vhost::HandoverCause::kFailover;
  EXPECT_TRUE(IsWarning(handover));
}

TEST(EventLog, ALineHasDeviceQueueAndText) {
  vhost::DeviceEvent event = Event(vhost::EventKind::kStall);
  EXPECT_EQ(EventLine(event), "net0: stall");
  event.report.queue = 1;
  event.report.text = "tx0 stands still";
  EXPECT_EQ(EventLine(event), "net0: stall of queue 1: tx0 stands still");
}

}  // namespace
}  // namespace vmm

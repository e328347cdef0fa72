// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/journal.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace vhost {
namespace {

std::string TimeNow() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
}

std::string TextOf(const HandoverReport& handover) {
  std::string text =
      absl::StrCat(Name(handover.from), " to ", Name(handover.to), ": ", handover.reason);
  if (!handover.problem.empty()) absl::StrAppend(&text, "; failed: ", handover.problem);
  if (handover.stopped_us.has_value()) {
    absl::StrAppend(&text, " (stopped for ", *handover.stopped_us, " us)");
  }
  return text;
}

}  // namespace

void Journal::Note(EventKind kind, std::string text, std::optional<int> queue) {
  Add(kind, {.time = TimeNow(), .what = Name(kind), .queue = queue, .text = std::move(text)},
      nullptr);
}

void Journal::NoteHandover(HandoverReport& handover) {
  handover.time = TimeNow();
  const bool done = handover.problem.empty();
  if (done) {
    ++counts_.done;
    if (handover.cause == HandoverCause::kFailover) ++counts_.failovers;
  } else {
    ++counts_.failed;
  }
  if (handovers_.size() == kHandoversKept) handovers_.pop_front();
  handovers_.push_back(handover);
  const EventKind kind = done ? EventKind::kHandover : EventKind::kHandoverFailed;
  Add(kind, {.time = handover.time, .what = Name(kind), .queue = {}, .text = TextOf(handover)},
      &handover);
}

void Journal::Add(EventKind kind, EventReport event, const HandoverReport* handover) {
  if (events_.size() == kEventsKept) events_.pop_front();
  events_.push_back(event);
  if (relay_ == nullptr) return;
  DeviceEvent told{.device = device_, .kind = kind, .report = std::move(event), .handover = {}};
  if (handover != nullptr) told.handover = *handover;
  relay_->Post(std::move(told));
}

void Journal::Describe(DeviceReport& report) const {
  report.events.assign(events_.begin(), events_.end());
  report.handovers.assign(handovers_.begin(), handovers_.end());
  report.handover_counts = counts_;
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/event_log.h"

#include "absl/strings/str_cat.h"

namespace vmm {

bool IsWarning(const vhost::DeviceEvent& event) {
  using enum vhost::EventKind;
  switch (event.kind) {
    case kFallback:
    case kNeedsReset:
    case kHandoverFailed:
    case kRingError:
    case kStall:
    case kStallOver:
    case kSpin:
    case kPortLost:
      return true;
    case kHandover:
      return event.handover.has_value() && event.handover->cause != vhost::HandoverCause::kRequest;
    case kStarted:
    case kReset:
    case kPaused:
    case kResumed:
    case kRestored:
    case kLinkChanged:
      return false;
  }
  return true;
}

std::string EventLine(const vhost::DeviceEvent& event) {
  std::string line = absl::StrCat(event.device, ": ", event.report.what);
  if (event.report.queue.has_value()) absl::StrAppend(&line, " of queue ", *event.report.queue);
  if (!event.report.text.empty()) absl::StrAppend(&line, ": ", event.report.text);
  return line;
}

}  // namespace vmm

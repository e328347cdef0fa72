// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/event_relay.h"

namespace vhost {

const char* Name(EventKind kind) {
  switch (kind) {
    case EventKind::kStarted:
      return "started";
    case EventKind::kFallback:
      return "fallback";
    case EventKind::kReset:
      return "reset";
    case EventKind::kNeedsReset:
      return "needs-reset";
    case EventKind::kHandover:
      return "handover";
    case EventKind::kHandoverFailed:
      return "handover-failed";
    case EventKind::kPaused:
      return "paused";
    case EventKind::kResumed:
      return "resumed";
    case EventKind::kRestored:
      return "restored";
    case EventKind::kRingError:
      return "ring-error";
    case EventKind::kStall:
      return "stall";
    case EventKind::kStallOver:
      return "stall-over";
    case EventKind::kSpin:
      return "spin";
    case EventKind::kPortLost:
      return "port-lost";
    case EventKind::kLinkChanged:
      return "link-changed";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<EventRelay>> EventRelay::Create(kernel_abi::Kernel& kernel,
                                                               EventLoop& loop, Observer observer) {
  absl::StatusOr<kernel_abi::EventFd> wake = kernel_abi::EventFd::Create(kernel);
  if (!wake.ok()) return wake.status();
  std::unique_ptr<EventRelay> relay(new EventRelay(*std::move(wake), std::move(observer)));
  EventRelay* raw = relay.get();
  auto watch = loop.WatchReadable(raw->wake_.get(), [raw] { raw->Deliver(); });
  if (!watch.ok()) return watch.status();
  relay->watch_ = *std::move(watch);
  return relay;
}

void EventRelay::Post(DeviceEvent event) {
  {
    absl::MutexLock lock(&mutex_);
    if (pending_.size() == kMostPending) {
      pending_.pop_front();
      ++dropped_;
    }
    pending_.push_back(std::move(event));
  }
  wake_.Signal();
}

void EventRelay::Deliver() {
  wake_.Drain();
  // As many as there are now: an observer that causes events must not keep the loop.
  std::deque<DeviceEvent> events;
  uint64_t dropped = 0;
  {
    absl::MutexLock lock(&mutex_);
    events.swap(pending_);
    dropped = std::exchange(dropped_, 0);
  }
  for (const DeviceEvent& event : events) observer_(event, std::exchange(dropped, 0));
}

}  // namespace vhost

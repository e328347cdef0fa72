// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What happens to a device and is not the driver's own doing, or is its end: told to the VMM as it
// happens (event_relay.h), and kept in the device's report.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vhost/report.h"

namespace vhost {

enum class EventKind : uint8_t {
  kStarted,         // the driver is ready: vrings are served; the text says by whom
  kFallback,        // the same, but not by the backend that is preferred; the text says why
  kReset,           // the driver has reset the device, or the VMM has
  kNeedsReset,      // nothing is served until the driver resets the device; the text says why
  kHandover,        // another backend serves from now on: see `handover`
  kHandoverFailed,  // it did not come about
  kPaused,
  kResumed,
  kRestored,   // from a saved state; it is paused
  kRingError,  // a backend reported a ring as broken
  kStall,      // a queue with work in it has not got on for a while
  kStallOver,  // it gets on again
  kSpin,       // the worker of such a queue does nothing but use CPU time
  kPortLost,   // what is behind the device (a TAP) is gone
  kLinkChanged,
};
const char* Name(EventKind kind);

struct DeviceEvent {
  std::string device;  // "net0"
  EventKind kind = EventKind::kStarted;
  EventReport report;
  std::optional<HandoverReport> handover;  // of kHandover and kHandoverFailed
};

}  // namespace vhost

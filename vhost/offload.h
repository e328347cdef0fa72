// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>

namespace vhost {

// Who may serve a device.
enum class OffloadPolicy : uint8_t {
  kRequire,  // the kernel, or the device fails with the reason
  kPrefer,   // the kernel if it can, this process if not
  kNever,    // this process
};
inline const char* Name(OffloadPolicy policy) {
  switch (policy) {
    case OffloadPolicy::kRequire:
      return "require";
    case OffloadPolicy::kPrefer:
      return "prefer";
    case OffloadPolicy::kNever:
      return "never";
  }
  return "unknown";
}

// What is done about a backend that fails while another one could serve.
struct FailoverOptions {
  bool enabled = true;
  // How long starts avoid a backend after it failed, unless it is asked for: the first time, and at
  // most. It doubles each time. A device that was moved does not go back by itself.
  uint32_t back_off_ms = 10'000;
  uint32_t max_back_off_ms = 600'000;
};

// When a queue counts as standing still: one that the driver has given work, and whose work needs
// nothing but the backend (a transmit queue).
struct WatchdogOptions {
  uint32_t period_ms = 1000;  // between looks; 0: no watchdog
  uint32_t stall_ms = 3000;   // without progress, before something is done about it
};

}  // namespace vhost

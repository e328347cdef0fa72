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

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include "absl/status/status.h"

namespace vhost_backend {

// Capabilities that are kept, if the process has them.
enum class Keep {
  kNothing,
  // Connecting to sockets of other users: what a guest asks for is served by other programs.
  kFileAccess,
};

// Gives up what serving takes no privilege for: capabilities, the right to gain any, and core dumps
// (which would hold the guest's memory). Of the calling thread and those that it makes later, so it
// comes before the first. There is no system call filter.
absl::Status EnterSandbox(Keep keep);

}  // namespace vhost_backend

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A device of a process without a control socket, by the name that `list` gives it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "src/vhostctl/foreign/process.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {

// PID/fdN.
struct ForeignName {
  pid_t pid = 0;
  std::string device;
};
// nullopt: the only argument is no such name, or only certain sockets are asked for.
std::optional<ForeignName> ParseForeign(const Invocation& invocation);

struct FoundForeign {
  ForeignProcess process;
  ForeignDevice device;
};
// NOT_FOUND, or PERMISSION_DENIED where the process's fds may not be read.
absl::StatusOr<FoundForeign> FindForeignDevice(const ForeignName& name);

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where control sockets are, so that vhostctl finds every one without configuration:
//
//   $XDG_RUNTIME_DIR/libvhost/VM-PID.sock   for a process of a user's session
//   /run/libvhost/VM-PID.sock               for one without XDG_RUNTIME_DIR: a system service
//
// The directory belongs to the user who made it and is closed to others (0700, or 0710 with a
// group). It is never removed: another VM may be about to use it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vhost::control {

// The one that a process of this user and environment puts its socket in.
std::string RuntimeDirectory();

// "VM-PID.sock" in `directory`. INVALID_ARGUMENT: a VM's name is 1 to 48 letters, digits, dots,
// dashes and underscores, and does not start with a dot or a dash.
absl::StatusOr<std::string> SocketPath(const std::string& directory, const std::string& vm,
                                       pid_t pid);

// Makes the directory if it is not there. PERMISSION_DENIED says what to do; FAILED_PRECONDITION:
// it belongs to somebody else, or others may write to it.
absl::Status MakeRuntimeDirectory(const std::string& directory, std::optional<gid_t> group);

// Sockets (*.sock) in `directory`, sorted; none if it cannot be read.
std::vector<std::string> SocketsIn(const std::string& directory);

// Those of every runtime directory that this user may look into: its own, the system's, and for
// root those of all sessions. Links are not followed, nor is a directory looked into that belongs
// to neither root, this user, nor the user of its session.
std::vector<std::string> FindSockets();

}  // namespace vhost::control

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/unix_socket.h"

namespace vhost::control {

// A unix stream socket that listens at a path of the file system, and removes it in the end.
// Only its owner may connect (mode 0600), or also a group (0660).
class Listener {
 public:
  // A socket that is there already is replaced if nobody listens on it any more. ALREADY_EXISTS:
  // somebody does. FAILED_PRECONDITION: something is there that is no socket. INVALID_ARGUMENT: a
  // path longer than a socket's address can be (107 bytes).
  static absl::StatusOr<Listener> Create(const std::string& path, std::optional<gid_t> group);

  int fd() const { return socket_.fd(); }
  const std::string& path() const { return socket_.path(); }

 private:
  explicit Listener(UnixListener socket) : socket_(std::move(socket)) {}

  UnixListener socket_;
};

// Connects to the socket at `path`, without waiting. UNAVAILABLE: nobody listens there;
// PERMISSION_DENIED: not for this user; RESOURCE_EXHAUSTED: its queue of connections is full.
absl::StatusOr<kernel_abi::UniqueFd> Connect(const std::string& path);

// Removes from `directory` those sockets that processes left there when they were killed: nobody
// listens on them, and they are older than a minute (a younger one may be about to listen).
void RemoveStaleSockets(const std::string& directory);

// The process that listens at the other end of `fd`, as the kernel says; nullopt if it is in a pid
// namespace that is not seen from here.
std::optional<pid_t> ServerPid(int fd);

// Whether the process at the other end of `fd` is root, runs as this process's user, or belongs to
// `group`. PERMISSION_DENIED names it if it is none of them.
absl::Status CheckPeer(int fd, std::optional<gid_t> group);

}  // namespace vhost::control

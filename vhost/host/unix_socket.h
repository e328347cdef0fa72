// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Unix sockets at paths of the file system: listening there without disturbing another who does,
// and connecting. Nothing here waits.
//
// Thread safety: none; one call at a time for each object.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {

// The longest path that a socket's address can hold, in bytes.
inline constexpr size_t kMaxUnixPathBytes = 107;

struct UnixListenerOptions {
  int type = SOCK_STREAM;      // or SOCK_SEQPACKET
  mode_t mode = 0600;          // of the file; who may write to it may connect
  std::optional<gid_t> group;  // of the file; nullopt: this process's
  int backlog = 16;            // clients that wait to be accepted
};

// A socket that listens at a path, non-blocking, and removes the path in the end.
class UnixListener {
 public:
  // A socket that is there already is replaced if nobody listens on it any more. ALREADY_EXISTS:
  // somebody does. FAILED_PRECONDITION: something is there that is no socket. INVALID_ARGUMENT: a
  // path that is empty or too long.
  static absl::StatusOr<UnixListener> Create(const std::string& path,
                                             const UnixListenerOptions& options = {});
  UnixListener(UnixListener&&) = default;
  UnixListener& operator=(UnixListener&&) = delete;
  // Removes the path, unless another socket stands there by now.
  ~UnixListener();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  UnixListener(kernel_abi::UniqueFd fd, std::string path, dev_t device, ino_t inode)
      : fd_(std::move(fd)), path_(std::move(path)), device_(device), inode_(inode) {}

  kernel_abi::UniqueFd fd_;
  std::string path_;
  dev_t device_;
  ino_t inode_;
};

// Connects to the socket at `path`, without waiting; the fd is non-blocking. UNAVAILABLE: nobody
// listens there; PERMISSION_DENIED: not for this user; RESOURCE_EXHAUSTED:
// its queue of connections is full. The errno is EPROTOTYPE where a socket of another type listens.
absl::StatusOr<kernel_abi::UniqueFd> ConnectUnix(const std::string& path, int type = SOCK_STREAM);

}  // namespace vhost

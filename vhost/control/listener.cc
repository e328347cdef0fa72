// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/runtime_directory.h"

namespace vhost::control {
namespace {

using kernel_abi::UniqueFd;

constexpr time_t kStaleAfterSeconds = 60;

absl::Status Failure(const std::string& path, const char* call, int error) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call});
}

}  // namespace

absl::StatusOr<Listener> Listener::Create(const std::string& path, std::optional<gid_t> group) {
  absl::StatusOr<UnixListener> socket = UnixListener::Create(
      path, {.mode = static_cast<mode_t>(group.has_value() ? 0660 : 0600), .group = group});
  if (!socket.ok()) return socket.status();
  return Listener(*std::move(socket));
}

absl::StatusOr<UniqueFd> Connect(const std::string& path) { return ConnectUnix(path); }

void RemoveStaleSockets(const std::string& directory) {
  for (const std::string& path : SocketsIn(directory)) {
    struct stat found {};
    if (lstat(path.c_str(), &found) != 0) continue;
    if (time(nullptr) - found.st_mtime < kStaleAfterSeconds) continue;
    if (absl::IsUnavailable(Connect(path).status())) unlink(path.c_str());
  }
}

std::optional<pid_t> ServerPid(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
    return std::nullopt;
  }
  return peer.pid;
}

absl::Status CheckPeer(int fd, std::optional<gid_t> group) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return Failure("control socket", "getsockopt(SO_PEERCRED)", errno);
  }
  if (peer.uid == 0 || peer.uid == geteuid()) return absl::OkStatus();
  if (group.has_value()) {
    if (peer.gid == *group) return absl::OkStatus();
    std::vector<gid_t> groups(64);
    size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    int result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
    if (result != 0 && errno == ERANGE) {  // `size` says how many bytes they need
      groups.resize(size / sizeof(gid_t));
      result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
    }
    if (result == 0) {
      groups.resize(size / sizeof(gid_t));
      if (std::count(groups.begin(), groups.end(), *group) > 0) return absl::OkStatus();
    }
  }
  return absl::PermissionDeniedError(absl::StrFormat(
      "control socket: user %d is not the owner (%d), root, or in its group", peer.uid, geteuid()));
}

}  // namespace vhost::control

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/runtime_directory.h"

namespace vhost::control {
namespace {

using kernel_abi::UniqueFd;

constexpr int kBacklog = 16;
constexpr time_t kStaleAfterSeconds = 60;

absl::Status Failure(const std::string& path, const char* call, int error) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call});
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a socket's path has 1 to %d bytes, this has %d", path,
                        sizeof(address.sun_path) - 1, path.size()));
  }
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failure(path, "socket", errno);
  return fd;
}

// Makes way for a new socket at `path`.
absl::Status RemoveDead(const std::string& path) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failure(path, "lstat", errno);
  }
  if (!S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is there, and no socket"));
  }
  const absl::StatusOr<UniqueFd> peer = Connect(path);
  if (peer.ok() || absl::IsResourceExhausted(peer.status())) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": another process listens there"));
  }
  if (!absl::IsUnavailable(peer.status())) return peer.status();
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failure(path, "unlink", errno);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Listener> Listener::Create(const std::string& path, std::optional<gid_t> group) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> fd = NewSocket(path);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = RemoveDead(path); !status.ok()) return status;
  // Linux gives the file the mode of the socket, so that it never has a wider one. A change of the
  // umask would hit every thread of the VMM, and a chmod afterwards would come too late.
  if (fchmod(fd->get(), group.has_value() ? 0660 : 0600) != 0) {
    return Failure(path, "fchmod", errno);
  }
  if (bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return Failure(path, "bind", errno);
  }
  struct stat made {};
  if (lstat(path.c_str(), &made) != 0) return Failure(path, "lstat", errno);
  Listener listener(*std::move(fd), path, made.st_dev, made.st_ino);
  if (group.has_value() && lchown(path.c_str(), static_cast<uid_t>(-1), *group) != 0) {
    return kernel_abi::AddAdvice(Failure(path, "chown", errno),
                                 "be a member of the group, or root");
  }
  if (listen(listener.fd(), kBacklog) != 0) return Failure(path, "listen", errno);
  return listener;
}

Listener::~Listener() {
  if (!fd_.valid()) return;  // moved from
  struct stat found {};
  if (lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

absl::StatusOr<UniqueFd> Connect(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> fd = NewSocket(path);
  if (!fd.ok()) return fd.status();
  if (connect(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0) {
    return fd;
  }
  switch (errno) {
    case ECONNREFUSED:
      return absl::UnavailableError(absl::StrCat(path, ": nobody listens there any more"));
    case EAGAIN:
      return absl::ResourceExhaustedError(absl::StrCat(path, ": too many connections wait there"));
    default:
      return Failure(path, "connect", errno);
  }
}

void RemoveStaleSockets(const std::string& directory) {
  for (const std::string& path : SocketsIn(directory)) {
    struct stat found {};
    if (lstat(path.c_str(), &found) != 0) continue;
    if (time(nullptr) - found.st_mtime < kStaleAfterSeconds) continue;
    if (absl::IsUnavailable(Connect(path).status())) unlink(path.c_str());
  }
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

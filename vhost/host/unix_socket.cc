// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/host/unix_socket.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

using kernel_abi::UniqueFd;

static_assert(kMaxUnixPathBytes == sizeof(sockaddr_un::sun_path) - 1);

absl::Status Failure(const std::string& path, const char* call, int error) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call});
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() > kMaxUnixPathBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a socket's path has 1 to %d bytes, this has %d", path,
                        kMaxUnixPathBytes, path.size()));
  }
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(const std::string& path, int type) {
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failure(path, "socket", errno);
  return fd;
}

// Makes way for a new socket at `path`.
absl::Status RemoveDead(const std::string& path, int type) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failure(path, "lstat", errno);
  }
  if (!S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is there, and no socket"));
  }
  const absl::StatusOr<UniqueFd> peer = ConnectUnix(path, type);
  if (peer.ok() || absl::IsResourceExhausted(peer.status()) ||
      kernel_abi::GetErrno(peer.status()) == EPROTOTYPE) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": another process listens there"));
  }
  if (!absl::IsUnavailable(peer.status())) return peer.status();
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failure(path, "unlink", errno);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UnixListener> UnixListener::Create(const std::string& path,
                                                  const UnixListenerOptions& options) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> fd = NewSocket(path, options.type);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = RemoveDead(path, options.type); !status.ok()) return status;
  // Linux gives the file the mode of the socket, less the umask, so that it never has a wider one.
  // A change of the umask would hit every thread of the process.
  if (fchmod(fd->get(), options.mode) != 0) return Failure(path, "fchmod", errno);
  if (bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return Failure(path, "bind", errno);
  }
  struct stat made {};
  if (lstat(path.c_str(), &made) != 0) return Failure(path, "lstat", errno);
  UnixListener listener(*std::move(fd), path, made.st_dev, made.st_ino);
  if (options.group.has_value() &&
      lchown(path.c_str(), static_cast<uid_t>(-1), *options.group) != 0) {
    return kernel_abi::AddAdvice(Failure(path, "chown", errno),
                                 "be a member of the group, or root");
  }
  // The umask may have taken bits away; they are given back to the group that is meant.
  if ((made.st_mode & 07777) != options.mode && chmod(path.c_str(), options.mode) != 0) {
    return Failure(path, "chmod", errno);
  }
  if (listen(listener.fd(), options.backlog) != 0) return Failure(path, "listen", errno);
  return listener;
}

UnixListener::~UnixListener() {
  if (!fd_.valid()) return;  // moved from
  struct stat found {};
  if (lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, int type) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> fd = NewSocket(path, type);
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

}  // namespace vhost

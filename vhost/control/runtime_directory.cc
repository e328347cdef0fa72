// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/runtime_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::control {
namespace {

constexpr char kFolder[] = "libvhost";
constexpr char kSystemDirectory[] = "/run";
constexpr char kSessionDirectories[] = "/run/user";
constexpr size_t kMaxVmNameBytes = 48;

absl::Status Failure(const std::string& path, const char* call, int error, const char* advice) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call}, advice);
}

std::vector<std::string> EntriesOf(DIR* open_directory, const std::string& path) {
  std::vector<std::string> entries;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(open_directory, &closedir);
  if (dir == nullptr) return entries;
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] != '.') entries.push_back(absl::StrCat(path, "/", entry->d_name));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

std::vector<std::string> SocketsAmong(std::vector<std::string> paths) {
  std::erase_if(paths, [](const std::string& path) {
    struct stat found {};
    return !absl::EndsWith(path, ".sock") || lstat(path.c_str(), &found) != 0 ||
           !S_ISSOCK(found.st_mode);
  });
  return paths;
}

// The directory itself, not what a link of that name leads to: whoever may write next to it could
// lead us anywhere.
kernel_abi::UniqueFd OpenDirectory(const std::string& path) {
  return kernel_abi::UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Of a runtime directory that was found, not named: none unless it belongs to root, to this user,
// or to the one whose session it is in.
std::vector<std::string> SocketsFoundIn(const std::string& session) {
  const std::string path = absl::StrCat(session, "/", kFolder);
  kernel_abi::UniqueFd directory = OpenDirectory(path);
  struct stat parent {};
  struct stat found {};
  if (!directory.valid() || fstat(directory.get(), &found) != 0 ||
      lstat(session.c_str(), &parent) != 0) {
    return {};
  }
  const uid_t owner = found.st_uid;
  if (owner != 0 && owner != geteuid() && owner != parent.st_uid) return {};
  DIR* entries = fdopendir(directory.get());
  if (entries != nullptr) static_cast<void>(directory.Release());  // closedir closes it
  return SocketsAmong(EntriesOf(entries, path));
}

}  // namespace

std::string RuntimeDirectory() {
  const char* session = getenv("XDG_RUNTIME_DIR");
  const bool usable = session != nullptr && session[0] == '/';
  return absl::StrCat(usable ? session : kSystemDirectory, "/", kFolder);
}

absl::StatusOr<std::string> SocketPath(const std::string& directory, const std::string& vm,
                                       pid_t pid) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
  };
  if (vm.empty() || vm.size() > kMaxVmNameBytes || vm[0] == '.' || vm[0] == '-' ||
      !std::all_of(vm.begin(), vm.end(), allowed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("VM name \"", vm, "\": must be 1 to ", kMaxVmNameBytes,
                     " letters, digits, '.', '-' and '_', the first a letter, a digit or '_'"));
  }
  return absl::StrCat(directory, "/", vm, "-", pid, ".sock");
}

absl::Status MakeRuntimeDirectory(const std::string& directory, std::optional<gid_t> group) {
  const bool made = mkdir(directory.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) {
    return Failure(directory, "mkdir", errno,
                   "set XDG_RUNTIME_DIR to a directory of your own, or give the socket a path");
  }
  // From here on by its fd: the name may stand for something else a moment later.
  const kernel_abi::UniqueFd opened = OpenDirectory(directory);
  if (!opened.valid()) {
    if (errno != ENOTDIR && errno != ELOOP) return Failure(directory, "open", errno, "");
    return absl::FailedPreconditionError(absl::StrCat(directory, ": not a directory"));
  }
  struct stat found {};
  if (fstat(opened.get(), &found) != 0) return Failure(directory, "fstat", errno, "");
  if (found.st_uid != geteuid()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: belongs to user %d, not to %d; set XDG_RUNTIME_DIR, or give the socket a path",
        directory, found.st_uid, geteuid()));
  }
  if (made && group.has_value()) {
    // First the group, then its right: at no moment may another group pass.
    if (fchown(opened.get(), static_cast<uid_t>(-1), *group) != 0) {
      return Failure(directory, "chown", errno, "be a member of the group, or root");
    }
    if (fchmod(opened.get(), 0710) != 0) return Failure(directory, "chmod", errno, "");
    return absl::OkStatus();
  }
  // Who can write to the directory can put a socket of its own where ours is looked for.
  if ((found.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: others may write to it (mode %o); chmod go-w %s", directory,
                        found.st_mode & 07777, directory));
  }
  return absl::OkStatus();
}

std::vector<std::string> SocketsIn(const std::string& directory) {
  return SocketsAmong(EntriesOf(opendir(directory.c_str()), directory));
}

std::vector<std::string> FindSockets() {
  std::string own = RuntimeDirectory();
  own.resize(own.size() - sizeof(kFolder));
  std::set<std::string> sessions = {own, kSystemDirectory};
  for (std::string& session : EntriesOf(opendir(kSessionDirectories), kSessionDirectories)) {
    sessions.insert(std::move(session));
  }
  std::vector<std::string> sockets;
  for (const std::string& session : sessions) {
    for (std::string& path : SocketsFoundIn(session)) sockets.push_back(std::move(path));
  }
  return sockets;
}

}  // namespace vhost::control

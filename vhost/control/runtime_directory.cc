// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/runtime_directory.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost::control {
namespace {

constexpr char kFolder[] = "libvhost";
constexpr char kSystemDirectory[] = "/run";
constexpr char kSessionDirectories[] = "/run/user";
constexpr size_t kMaxVmNameBytes = 48;

absl::Status Failure(const std::string& path, const char* call, int error, const char* advice) {
  return kernel_abi::MakeSystemError({.error = error, .subject = path, .call = call}, advice);
}

std::vector<std::string> EntriesOf(const std::string& directory) {
  std::vector<std::string> entries;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), &closedir);
  if (dir == nullptr) return entries;
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] != '.') entries.push_back(absl::StrCat(directory, "/", entry->d_name));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
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
  if (mkdir(directory.c_str(), 0700) == 0) {
    if (!group.has_value()) return absl::OkStatus();
    // First the group, then its right: at no moment may another group pass.
    if (lchown(directory.c_str(), static_cast<uid_t>(-1), *group) != 0) {
      return Failure(directory, "chown", errno, "be a member of the group, or root");
    }
    if (chmod(directory.c_str(), 0710) != 0) return Failure(directory, "chmod", errno, "");
    return absl::OkStatus();
  }
  if (errno != EEXIST) {
    return Failure(directory, "mkdir", errno,
                   "set XDG_RUNTIME_DIR to a directory of your own, or give the socket a path");
  }
  struct stat found {};
  if (lstat(directory.c_str(), &found) != 0) return Failure(directory, "lstat", errno, "");
  if (!S_ISDIR(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(directory, ": not a directory"));
  }
  if (found.st_uid != geteuid()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: belongs to user %d, not to %d; set XDG_RUNTIME_DIR, or give the socket a path",
        directory, found.st_uid, geteuid()));
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
  std::vector<std::string> sockets;
  for (const std::string& path : EntriesOf(directory)) {
    struct stat found {};
    if (absl::EndsWith(path, ".sock") && lstat(path.c_str(), &found) == 0 &&
        S_ISSOCK(found.st_mode)) {
      sockets.push_back(path);
    }
  }
  return sockets;
}

std::vector<std::string> FindSockets() {
  std::set<std::string> directories = {RuntimeDirectory(),
                                       absl::StrCat(kSystemDirectory, "/", kFolder)};
  for (const std::string& session : EntriesOf(kSessionDirectories)) {
    directories.insert(absl::StrCat(session, "/", kFolder));
  }
  std::vector<std::string> sockets;
  for (const std::string& directory : directories) {
    for (std::string& path : SocketsIn(directory)) sockets.push_back(std::move(path));
  }
  return sockets;
}

}  // namespace vhost::control

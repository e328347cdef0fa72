// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::ctl {
namespace {

absl::Status Failure(const std::string& path, const char* call) {
  return kernel_abi::MakeSystemError({.error = errno, .subject = path, .call = call});
}

absl::Status WriteAll(int fd, const std::string& path, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count < 0 && errno != EINTR) return Failure(path, "write");
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteWhole(const std::string& path, absl::string_view text, mode_t mode) {
  struct stat there;
  if (lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    // A terminal, a pipe, a link such as /dev/stdout: written to, not replaced.
    const kernel_abi::UniqueFd fd(open(path.c_str(), O_WRONLY | O_TRUNC | O_NOCTTY | O_CLOEXEC));
    return fd.valid() ? WriteAll(fd.get(), path, text) : Failure(path, "open");
  }
  const std::string making = absl::StrCat(path, ".", getpid());
  const kernel_abi::UniqueFd fd(
      open(making.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!fd.valid()) return Failure(making, "open");
  absl::Status status = WriteAll(fd.get(), making, text);
  if (status.ok() && fchmod(fd.get(), mode) != 0) status = Failure(making, "fchmod");
  if (status.ok() && rename(making.c_str(), path.c_str()) != 0) status = Failure(path, "rename");
  if (!status.ok()) unlink(making.c_str());
  return status;
}

}  // namespace vhost::ctl

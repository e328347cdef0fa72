// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/foreign/borrow.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kernel-abi/request.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "src/vhostctl/proc_files.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;

// A copy of the process's fd, which is `node`.
absl::StatusOr<UniqueFd> Borrow(pid_t pid, int fd, const std::string& node) {
  const std::string name = absl::StrCat("/proc/", pid, "/fd/", fd);
  const auto failure = [&name](const char* call) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = name, .call = call},
        errno == EPERM ? "it takes the right to trace the process: ask as root" : "");
  };
  // By number: Debian 12's <sys/pidfd.h> has no declarations that C++ links.
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return failure("pidfd_open");
  UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!copy.valid()) return failure("pidfd_getfd");
  const std::string link = absl::StrCat("/proc/self/fd/", copy.get());
  const auto target = ReadLink(link);
  if (target != node || !IsNode(link, node)) {
    return absl::AbortedError(
        absl::StrCat(name, ": is ", target.value_or("nothing"), " now, not ", node));
  }
  return copy;
}

}  // namespace

absl::StatusOr<VhostFeatures> BorrowVhostFeatures(kernel_abi::Kernel& kernel, pid_t pid, int fd,
                                                  const std::string& node) {
  // Other nodes may mean something else by that number.
  if (node != "/dev/vhost-net" && node != "/dev/vhost-vsock" && node != "/dev/vhost-scsi") {
    return absl::UnimplementedError(absl::StrCat(node, ": is not asked"));
  }
  const absl::StatusOr<UniqueFd> copy = Borrow(pid, fd, node);
  if (!copy.ok()) return copy.status();
  uint64_t bits = 0;
  const auto asked =
      Call(kernel_abi::Subject{kernel, copy->get(), node}, kernel_abi::kVhostGetFeatures, bits);
  if (!asked.ok()) return asked.status();
  return VhostFeatures::FromWords(bits);
}

absl::StatusOr<BorrowedTap> BorrowTap(kernel_abi::Kernel& kernel, pid_t pid, int fd) {
  const absl::StatusOr<UniqueFd> copy = Borrow(pid, fd, kernel_abi::kTunPath);
  if (!copy.ok()) return copy.status();
  const kernel_abi::Subject subject{kernel, copy->get(), kernel_abi::kTunPath};
  BorrowedTap tap;
  auto asked = Call(subject, kernel_abi::kTunGetVnetHdrSz, tap.header_bytes);
  if (asked.ok()) asked = Call(subject, kernel_abi::kTunGetSndBuf, tap.sndbuf_bytes);
  if (!asked.ok()) return asked.status();
  return tap;
}

void AskTheKernel(kernel_abi::Kernel& kernel, ForeignProcess* process, ForeignDevice* device) {
  const absl::StatusOr<VhostFeatures> features =
      BorrowVhostFeatures(kernel, process->pid, device->fd, device->node);
  if (features.ok()) {
    device->vhost_offered = *features;
  } else {
    device->vhost_offered_unknown = std::string(features.status().message());
  }
  for (ForeignTap& tap : process->taps) {
    const absl::StatusOr<BorrowedTap> facts = BorrowTap(kernel, process->pid, tap.fd);
    if (!facts.ok()) continue;
    tap.header_bytes = facts->header_bytes;
    tap.sndbuf_bytes = facts->sndbuf_bytes;
  }
}

}  // namespace vhost::ctl

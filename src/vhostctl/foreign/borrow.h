// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The few things that the kernel tells of a vhost fd, or of a TAP's queue, to somebody who is not
// its owner: asked on a copy of the process's fd (pidfd_getfd), which takes the right to trace it.
//
// A copy keeps a device from ending with its process, and some requests on it would change a device
// that runs. So only requests that read are made here, the copy is looked at first (another file
// may have got the number meanwhile), and it is closed before this returns.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "src/vhostctl/foreign/process.h"
#include "vhost/features.h"

namespace vhost::ctl {

// What the kernel would let the owner ack. VHOST_GET_FEATURES; UNIMPLEMENTED for nodes that are
// neither net, vsock nor scsi.
absl::StatusOr<VhostFeatures> BorrowVhostFeatures(kernel_abi::Kernel& kernel, pid_t pid, int fd,
                                                  const std::string& node);

struct BorrowedTap {
  int header_bytes = 0;
  int sndbuf_bytes = 0;
};
// TUNGETVNETHDRSZ, TUNGETSNDBUF.
absl::StatusOr<BorrowedTap> BorrowTap(kernel_abi::Kernel& kernel, pid_t pid, int fd);

// Both, of the device and of all TAPs of its process; what is refused stays unknown.
void AskTheKernel(kernel_abi::Kernel& kernel, ForeignProcess* process, ForeignDevice* device);

}  // namespace vhost::ctl

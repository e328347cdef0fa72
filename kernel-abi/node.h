// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Opening the kernel's nodes, with messages that say what a person can do when that fails.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"

namespace kernel_abi {

// Opens `path` (/dev/vhost-net, /dev/vhost-vsock, /dev/net/tun, /dev/kvm, or one of another name)
// for reading and writing. The error names the module to load for ENOENT, ENODEV and ENXIO, the
// group or capability that is missing for EACCES and EPERM, and the limit for EMFILE and ENFILE:
//
//   /dev/vhost-net: open: ENOENT (No such file or directory); load the module: modprobe vhost_net
absl::StatusOr<UniqueFd> OpenNode(Kernel& kernel, absl::string_view path);

// The number that a file holds (/sys/module/vhost/parameters/max_mem_regions, a sysctl). Error if
// it is absent or no number.
absl::StatusOr<long> ReadNumber(Kernel& kernel, absl::string_view path);

}  // namespace kernel_abi

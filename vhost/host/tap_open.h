// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a TAP's queues are had, and what is wrong when they are not: the kernel answers EINVAL and
// EBUSY to half a dozen mistakes.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {

struct OpenTap {
  std::string name;
  std::vector<kernel_abi::UniqueFd> queues;
  bool is_multi_queue = false;
  bool is_persistent = false;
};

// Attaches `queues` queues to the TAP `name`, which is made if it is not there ("" and "tap%d": the
// kernel chooses a number).
absl::StatusOr<OpenTap> OpenTapByName(kernel_abi::Kernel& kernel, const std::string& name,
                                      int queues);

// Takes over fds that are queues of one TAP.
absl::StatusOr<OpenTap> TakeOverTap(kernel_abi::Kernel& kernel,
                                    std::vector<kernel_abi::UniqueFd> fds);

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <optional>

#include "kernel-abi/kernel.h"

namespace vhost {

// The counter of an eventfd, without resetting it: from /proc/self/fdinfo. vhost never reads the
// kick eventfds that it waits on, so that this is the number of kicks. nullopt where /proc does not
// tell.
std::optional<uint64_t> ReadEventFdCount(kernel_abi::Kernel& kernel, int fd);

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is the same for every vhost device of this machine and process. A VMM with several devices
// makes one of these and hands it to all of them: to read /sys and to open /proc for each device
// anew would take longer than many of the requests that bring it up.
#pragma once

#include "absl/base/call_once.h"
#include "kernel-abi/kernel.h"
#include "vhost/kernel/memory_limits.h"
#include "vhost/kernel/proc_thread.h"

namespace vhost {

// Thread safety: any thread.
class HostFacts {
 public:
  // `kernel` must outlive it.
  explicit HostFacts(kernel_abi::Kernel& kernel) : kernel_(kernel) {}
  HostFacts(const HostFacts&) = delete;
  HostFacts& operator=(const HostFacts&) = delete;

  // Of the host's vhost module; read when first asked for, and constant from then on.
  const MemoryLimits& memory_limits() const {
    absl::call_once(limits_once_, [this] { limits_ = MemoryLimits::Read(kernel_); });
    return limits_;
  }
  const TidCounter& tids() const { return tids_; }

 private:
  kernel_abi::Kernel& kernel_;
  mutable absl::once_flag limits_once_;
  mutable MemoryLimits limits_{};
  const TidCounter tids_;
};

}  // namespace vhost

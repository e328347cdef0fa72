// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/kernel.h"

namespace vhost {

// Where a thread that serves vrings runs: a vhost worker, or a data thread of this process. What is
// empty stays as it is in the process.
struct WorkerPlacement {
  std::vector<int> cpus;
  std::optional<int> nice;  // -20 to 19
  // A cgroup's directory. Of version 2: one of the "threaded" kind, below the process's own.
  std::string cgroup;

  bool empty() const { return cpus.empty() && !nice.has_value() && cgroup.empty(); }
};

// Moves the calling thread there: its CPUs, its nice value, its cgroup, in this order. `who` begins
// the message of an error ("vhost worker"); after one the thread may be half moved.
absl::Status PlaceCallingThread(kernel_abi::Kernel& kernel, const WorkerPlacement& placement,
                                absl::string_view who);
// Another thread's CPUs and nice value (0: the calling one's), which takes CAP_SYS_NICE for one of
// the kernel's own. A cgroup only the thread itself can enter.
absl::Status PlaceThread(kernel_abi::Kernel& kernel, pid_t tid, const WorkerPlacement& placement,
                         absl::string_view who);

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What /proc tells of a thread: how vhost workers are found and watched. Since Linux 6.4 a worker
// is a thread of the process that owns the device; before that, and by choice since 6.17, it is a
// thread of the kernel's own. Nothing here changes anything, and nothing fails: what cannot be read
// is not there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {

// Threads of this process, in no particular order.
std::vector<pid_t> ThreadsOfThisProcess();
// Which tid was given last in this pid namespace, to whomever. Thread safety: any thread.
class TidCounter {
 public:
  TidCounter();
  pid_t Last() const;  // 0 where it is not to be known
  // Whether thread ids here are those that the kernel puts into names: only in the first pid
  // namespace.
  bool tids_are_the_kernels() const { return tids_are_the_kernels_; }

 private:
  kernel_abi::UniqueFd file_;
  bool tids_are_the_kernels_;
};

// The name of a thread, of this process or any; empty if it is gone.
std::string ThreadName(pid_t tid);

struct ThreadFacts {
  std::string name;
  std::optional<uint64_t> cpu_time_ns;
  std::optional<std::string> affinity;  // "0-3,8"
  std::optional<int> nice;
  std::optional<std::string> cgroup;  // "/machine/vm1"; of the hierarchies of version 1, all
};
// nullopt if there is no such thread.
std::optional<ThreadFacts> ReadThreadFacts(pid_t tid);

namespace internal {
// The pieces, for tests. `stat` and `status` are the contents of the files of these names.
pid_t LastNumber(absl::string_view text);  // "0.20 0.18 0.12 1/80 11206\n"; 0 if there is none
std::optional<int> NiceFromStat(absl::string_view stat);
std::optional<std::string> AffinityFromStatus(absl::string_view status);
std::optional<std::string> CgroupPath(absl::string_view cgroup);
}  // namespace internal

}  // namespace vhost

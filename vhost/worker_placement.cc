// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/worker_placement.h"

#include <fcntl.h>
#include <sched.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {
namespace {

absl::Status PlacementError(int error, absl::string_view who, absl::string_view what,
                            absl::string_view call, std::string arguments,
                            absl::string_view advice) {
  return kernel_abi::MakeSystemError({.error = error,
                                      .subject = absl::StrCat(who, " ", what),
                                      .call = std::string(call),
                                      .arguments = std::move(arguments)},
                                     advice);
}

absl::Status PlaceOnCpus(kernel_abi::Kernel& kernel, pid_t tid, const std::vector<int>& cpus,
                         absl::string_view who) {
  if (cpus.empty()) return absl::OkStatus();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
      return absl::InvalidArgumentError(
          absl::StrCat(who, " CPU ", cpu, " is not from 0 to ", CPU_SETSIZE - 1));
    }
    CPU_SET(static_cast<size_t>(cpu), &set);
  }
  const int result = kernel.SetAffinity(tid, set);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(-result, who, "CPUs", "sched_setaffinity",
                        absl::StrCat("cpus=", absl::StrJoin(cpus, ",")),
                        result == -EINVAL ? "none of these CPUs is there for this process" : "");
}

absl::Status PlaceAtNice(kernel_abi::Kernel& kernel, pid_t tid, std::optional<int> nice,
                         absl::string_view who) {
  if (!nice.has_value()) return absl::OkStatus();
  const int result = kernel.SetNice(tid, *nice);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(-result, who, "nice", "setpriority", absl::StrCat("nice=", *nice),
                        result == -EACCES || result == -EPERM
                            ? "a lower value needs CAP_SYS_NICE or RLIMIT_NICE"
                            : "");
}

// Moves the calling thread.
absl::Status PlaceInCgroup(kernel_abi::Kernel& kernel, const std::string& cgroup,
                           absl::string_view who) {
  if (cgroup.empty()) return absl::OkStatus();
  // Version 2 has cgroup.threads, version 1 has tasks; 0 is the thread that writes.
  std::string file = absl::StrCat(cgroup, "/cgroup.threads");
  kernel_abi::UniqueFd fd(kernel.Open(file.c_str(), O_WRONLY));
  if (fd.get() == -ENOENT) {
    file = absl::StrCat(cgroup, "/tasks");
    fd = kernel_abi::UniqueFd(kernel.Open(file.c_str(), O_WRONLY));
  }
  if (!fd.valid()) {
    return PlacementError(-fd.get(), who, "cgroup", "open", file,
                          fd.get() == -ENOENT ? "make the cgroup first" : "");
  }
  const ssize_t result = kernel.Write(fd.get(), "0", 1);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(static_cast<int>(-result), who, "cgroup", "write", file,
                        result == -EOPNOTSUPP
                            ? "a single thread moves only within a threaded subtree: write "
                              "`threaded` to cgroup.type of a cgroup below the process's own"
                            : "");
}

}  // namespace

absl::Status PlaceThread(kernel_abi::Kernel& kernel, pid_t tid, const WorkerPlacement& placement,
                         absl::string_view who) {
  if (absl::Status status = PlaceOnCpus(kernel, tid, placement.cpus, who); !status.ok()) {
    return status;
  }
  return PlaceAtNice(kernel, tid, placement.nice, who);
}

absl::Status PlaceCallingThread(kernel_abi::Kernel& kernel, const WorkerPlacement& placement,
                                absl::string_view who) {
  if (absl::Status status = PlaceThread(kernel, 0, placement, who); !status.ok()) return status;
  return PlaceInCgroup(kernel, placement.cgroup, who);
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The thread that serves a vhost device in the kernel. VHOST_SET_OWNER makes it, and it starts life
// as the thread that asked: with its CPUs, its nice value and its cgroup. So a worker is placed by
// asking from a short-lived thread that was placed first; nothing of the process itself changes,
// and there is no moment at which the worker is elsewhere.
//
// Since Linux 6.4 the worker is a thread of the owner's process: it counts against its limits,
// stops with SIGSTOP, and dies only with the process (killing the worker's tid kills the VMM). Up
// to 6.3, and by choice since 6.17, it is a kernel thread, which inherits the cgroup only; its CPUs
// and nice value are then set by its tid, which takes CAP_SYS_NICE.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/kernel/proc_thread.h"
#include "vhost/report.h"
#include "vhost/worker_placement.h"

namespace vhost {

class Worker {
 public:
  // Calls `set_owner` (VHOST_SET_OWNER of one device) from a thread that is placed as asked. Which
  // thread the worker is, is found out when it is first asked for: to look for it in /proc would
  // take half as long as making it. Not finding it is no error: the report says so then.
  static absl::StatusOr<Worker> Start(kernel_abi::Kernel& kernel, const TidCounter& tids,
                                      const WorkerPlacement& placement,
                                      const std::function<absl::Status()>& set_owner);
  // A worker of which nothing is known.
  explicit Worker(std::string unknown_because) : unknown_because_(std::move(unknown_because)) {}

  pid_t tid() const { return Find().tid; }  // 0: not known
  // Where it stands now; `queues` is the caller's.
  WorkerReport Report() const;

 private:
  // What is known of its birth: who asked for it, and which tid was the last to be given just
  // before that. The kernel calls it `vhost-<owner_tid>`, a name that nobody but that thread gives,
  // so it is the first of that name which came then. In a pid namespace the number in the name is
  // another; so there it is noted too which tid was the last after. Tids that begin anew between
  // leave it unknown.
  struct Birth {
    pid_t owner_tid = 0;
    pid_t last_before = 0;  // 0: not known
    pid_t last_after = 0;   // 0: not noted
  };
  struct Found {
    pid_t tid = 0;
    std::string name;
    bool is_kernel_thread = false;
  };

  explicit Worker(const Birth& birth) : birth_(birth) {}
  static Found Look(const Birth& birth);
  const Found& Find() const;

  Birth birth_;
  mutable std::optional<Found> found_;  // once looked for
  std::string unknown_because_;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/worker.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {
namespace {

constexpr size_t kPlacedThreadStackBytes = 64 * 1024;

absl::Status PlacementError(int error, absl::string_view what, absl::string_view call,
                            std::string arguments, absl::string_view advice) {
  return kernel_abi::MakeSystemError({.error = error,
                                      .subject = absl::StrCat("vhost worker ", what),
                                      .call = std::string(call),
                                      .arguments = std::move(arguments)},
                                     advice);
}

absl::Status PlaceOnCpus(kernel_abi::Kernel& kernel, pid_t tid, const std::vector<int>& cpus) {
  if (cpus.empty()) return absl::OkStatus();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
      return absl::InvalidArgumentError(
          absl::StrCat("vhost worker CPU ", cpu, " is not from 0 to ", CPU_SETSIZE - 1));
    }
    CPU_SET(static_cast<size_t>(cpu), &set);
  }
  const int result = kernel.SetAffinity(tid, set);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(-result, "CPUs", "sched_setaffinity",
                        absl::StrCat("cpus=", absl::StrJoin(cpus, ",")),
                        result == -EINVAL ? "none of these CPUs is there for this process" : "");
}

absl::Status PlaceAtNice(kernel_abi::Kernel& kernel, pid_t tid, std::optional<int> nice) {
  if (!nice.has_value()) return absl::OkStatus();
  const int result = kernel.SetNice(tid, *nice);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(-result, "nice", "setpriority", absl::StrCat("nice=", *nice),
                        result == -EACCES || result == -EPERM
                            ? "a lower value needs CAP_SYS_NICE or RLIMIT_NICE"
                            : "");
}

// Moves the calling thread.
absl::Status PlaceInCgroup(kernel_abi::Kernel& kernel, const std::string& cgroup) {
  if (cgroup.empty()) return absl::OkStatus();
  // Version 2 has cgroup.threads, version 1 has tasks; 0 is the thread that writes.
  std::string file = absl::StrCat(cgroup, "/cgroup.threads");
  kernel_abi::UniqueFd fd(kernel.Open(file.c_str(), O_WRONLY));
  if (fd.get() == -ENOENT) {
    file = absl::StrCat(cgroup, "/tasks");
    fd = kernel_abi::UniqueFd(kernel.Open(file.c_str(), O_WRONLY));
  }
  if (!fd.valid()) {
    return PlacementError(-fd.get(), "cgroup", "open", file,
                          fd.get() == -ENOENT ? "make the cgroup first" : "");
  }
  const ssize_t result = kernel.Write(fd.get(), "0", 1);
  if (result >= 0) return absl::OkStatus();
  return PlacementError(static_cast<int>(-result), "cgroup", "write", file,
                        result == -EOPNOTSUPP
                            ? "a single thread moves only within a threaded subtree: write "
                              "`threaded` to cgroup.type of a cgroup below the process's own"
                            : "");
}

// Runs `work` on a thread of its own and waits for it.
absl::Status OnShortLivedThread(const std::function<absl::Status()>& work) {
  struct Task {
    const std::function<absl::Status()>& work;
    absl::Status result;
  } task{work, absl::OkStatus()};
  pthread_attr_t attributes;
  int error = ::pthread_attr_init(&attributes);
  if (error == 0) {
    ::pthread_attr_setstacksize(&attributes, kPlacedThreadStackBytes);
    pthread_t thread;
    error = ::pthread_create(
        &thread, &attributes,
        [](void* argument) -> void* {
          auto* given = static_cast<Task*>(argument);
          given->result = given->work();
          return nullptr;
        },
        &task);
    ::pthread_attr_destroy(&attributes);
    if (error == 0) ::pthread_join(thread, nullptr);
  }
  if (error != 0) {
    return kernel_abi::MakeSystemError(
        {.error = error, .subject = "vhost worker", .call = "pthread_create"},
        "check the limits of threads: ulimit -u, the cgroup's pids.max");
  }
  return task.result;
}

bool IsWorkerName(absl::string_view name) { return absl::StartsWith(name, "vhost-"); }

// More tids than this are not given between the birth of a worker and a look at the counter.
constexpr pid_t kMostTidsBetween = 1024;

}  // namespace

absl::StatusOr<Worker> Worker::Start(kernel_abi::Kernel& kernel, const TidCounter& tids,
                                     const WorkerPlacement& placement,
                                     const std::function<absl::Status()>& set_owner) {
  Birth birth;
  const auto become_owner = [&]() -> absl::Status {
    birth.owner_tid = kernel.ThreadId();
    if (!tids.tids_are_the_kernels()) birth.last_before = tids.Last();
    if (absl::Status status = set_owner(); !status.ok()) return status;
    birth.last_after = tids.Last();
    return absl::OkStatus();
  };
  if (placement.empty()) {
    if (absl::Status status = become_owner(); !status.ok()) return status;
    return Worker(birth);
  }
  absl::Status status = OnShortLivedThread([&]() -> absl::Status {
    if (absl::Status placed = PlaceOnCpus(kernel, 0, placement.cpus); !placed.ok()) return placed;
    if (absl::Status placed = PlaceAtNice(kernel, 0, placement.nice); !placed.ok()) return placed;
    if (absl::Status placed = PlaceInCgroup(kernel, placement.cgroup); !placed.ok()) return placed;
    return become_owner();
  });
  if (!status.ok()) return status;
  Worker worker(birth);
  if (const Found& found = worker.Find(); found.is_kernel_thread) {
    status = PlaceOnCpus(kernel, found.tid, placement.cpus);
    if (status.ok()) status = PlaceAtNice(kernel, found.tid, placement.nice);
    if (!status.ok()) return status;
  }
  return worker;
}

Worker::Found Worker::Look(const Birth& birth) {
  const bool names_are_ours = birth.last_before == 0;
  const std::string name = absl::StrCat("vhost-", birth.owner_tid);
  const pid_t after =
      names_are_ours ? std::max(birth.last_after - kMostTidsBetween, 0) : birth.last_before;
  Found newest;
  int likely = 0;
  for (pid_t tid : ThreadsOfThisProcess()) {
    if (tid <= after || tid > birth.last_after || tid < newest.tid) continue;
    std::string its_name = ThreadName(tid);
    if (names_are_ours ? its_name != name : !IsWorkerName(its_name)) continue;
    newest = {.tid = tid, .name = std::move(its_name)};
    ++likely;
  }
  // Two in a namespace: another thread made one at the same time, and there is no telling which.
  if (newest.tid != 0) return names_are_ours || likely == 1 ? newest : Found();
  for (pid_t tid = birth.last_after; tid > after && names_are_ours; --tid) {
    if (ThreadName(tid) == name) return {.tid = tid, .name = name, .is_kernel_thread = true};
  }
  return {};
}

const Worker::Found& Worker::Find() const {
  if (!found_.has_value()) found_ = birth_.last_after != 0 ? Look(birth_) : Found();
  return *found_;
}

WorkerReport Worker::Report() const {
  const Found& found = Find();
  WorkerReport report{.tid = found.tid, .name = found.name, .unknown_because = unknown_because_};
  if (found.tid == 0) {
    if (report.unknown_because.empty()) {
      report.unknown_because =
          "its thread is not to be seen in /proc: it is a kernel thread and this is a pid "
          "namespace, or /proc is not mounted";
    }
    return report;
  }
  const std::optional<ThreadFacts> facts = ReadThreadFacts(found.tid);
  // A tid is given again once its thread is gone; the name tells.
  if (!facts.has_value() || facts->name != found.name) {
    report.unknown_because = "the thread is gone";
    return report;
  }
  report.cpu_time_ns = facts->cpu_time_ns;
  report.affinity = facts->affinity;
  report.nice = facts->nice;
  report.cgroup = facts->cgroup;
  return report;
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/worker.h"

#include <pthread.h>

#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

constexpr char kWho[] = "vhost worker";
constexpr size_t kPlacedThreadStackBytes = 64 * 1024;

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
        {.error = error, .subject = kWho, .call = "pthread_create"},
        "check the limits of threads: ulimit -u, the cgroup's pids.max");
  }
  return task.result;
}

bool IsWorkerName(absl::string_view name) { return absl::StartsWith(name, "vhost-"); }

// More tids than this are not given between a look at the counter and the birth of a worker.
constexpr pid_t kMostTidsBetween = 1024;

}  // namespace

absl::StatusOr<Worker> Worker::Start(kernel_abi::Kernel& kernel, const TidCounter& tids,
                                     const WorkerPlacement& placement,
                                     const std::function<absl::Status()>& set_owner) {
  Birth birth;
  const auto become_owner = [&]() -> absl::Status {
    birth.owner_tid = kernel.ThreadId();
    birth.last_before = tids.Last();
    absl::Status status = set_owner();
    if (status.ok() && !tids.tids_are_the_kernels()) birth.last_after = tids.Last();
    return status;
  };
  if (placement.empty()) {
    if (absl::Status status = become_owner(); !status.ok()) return status;
    return Worker(birth);
  }
  absl::Status status = OnShortLivedThread([&]() -> absl::Status {
    absl::Status placed = PlaceCallingThread(kernel, placement, kWho);
    return placed.ok() ? become_owner() : placed;
  });
  if (!status.ok()) return status;
  Worker worker(birth);
  if (const Found& found = worker.Find(); found.is_kernel_thread) {
    status = PlaceThread(kernel, found.tid, placement, kWho);
    if (!status.ok()) return status;
  }
  return worker;
}

Worker::Found Worker::Look(const Birth& birth) {
  const bool names_are_ours = birth.last_after == 0;
  const std::string name = absl::StrCat("vhost-", birth.owner_tid);
  Found first;
  int likely = 0;
  for (pid_t tid : ThreadsOfThisProcess()) {
    if (tid <= birth.last_before || (first.tid != 0 && tid > first.tid && names_are_ours)) continue;
    if (!names_are_ours && tid > birth.last_after) continue;
    std::string its_name = ThreadName(tid);
    if (names_are_ours ? its_name != name : !IsWorkerName(its_name)) continue;
    first = {.tid = tid, .name = std::move(its_name)};
    ++likely;
  }
  // Two in a namespace: another thread made one at the same time, and there is no telling which.
  if (first.tid != 0) return names_are_ours || likely == 1 ? first : Found();
  if (!names_are_ours) return {};
  for (pid_t tid = birth.last_before + 1; tid <= birth.last_before + kMostTidsBetween; ++tid) {
    if (ThreadName(tid) == name) return {.tid = tid, .name = name, .is_kernel_thread = true};
  }
  return {};
}

const Worker::Found& Worker::Find() const {
  if (!found_.has_value()) found_ = birth_.last_before != 0 ? Look(birth_) : Found();
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

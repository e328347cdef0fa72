// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What concerns every device: limits, the place, io_uring; and the whole put together.
#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/vhost.h"
#include "src/vhostctl/doctor/diagnosis.h"

namespace vhost::ctl {
namespace {

// What a VMM with one network and one socket device opens, roughly: 8 fds a queue pair (vhost, TAP
// and three eventfds a queue), 16 for the rest of the two, and some for itself, KVM and vCPUs.
constexpr uint64_t kFdsOfAQueuePair = 8;
constexpr uint64_t kFdsBesides = 48;
// Threads: a worker a queue pair, one for vsock, and vCPUs.
constexpr uint64_t kThreadsBesides = 8;

std::string Limit(uint64_t value) {
  return value == UINT64_MAX ? "unlimited" : absl::StrCat(value);
}

Finding JudgeFds(const LimitFacts& limits, const Wanted& wanted) {
  const uint64_t need = kFdsBesides + kFdsOfAQueuePair * static_cast<uint64_t>(wanted.queue_pairs);
  Finding finding = {
      .check = "open files (RLIMIT_NOFILE)",
      .found = absl::StrCat(Limit(limits.nofile_soft), " (hard limit ", Limit(limits.nofile_hard),
                            "), of which a VM with ", wanted.queue_pairs, " queue pair",
                            wanted.queue_pairs == 1 ? "" : "s", " and a socket device needs about ",
                            need)};
  if (limits.nofile_soft >= need) return finding;
  finding.level = Level::kFailure;
  finding.meaning = "devices fail with EMFILE when they are made or activated";
  if (limits.nofile_hard >= need) {
    finding.mend = {absl::StrCat("ulimit -n ", Limit(limits.nofile_hard))};
  } else {
    finding.mend = {"ulimit -Hn 65536 && ulimit -n 65536   # as root"};
  }
  finding.mend.push_back("or systemd: LimitNOFILE=65536");
  return finding;
}

Finding JudgeThreads(const LimitFacts& limits, const Wanted& wanted) {
  const uint64_t need = kThreadsBesides + static_cast<uint64_t>(wanted.queue_pairs);
  Finding finding = {.check = "threads (RLIMIT_NPROC, pids cgroup)",
                     .found = absl::StrCat(Limit(limits.nproc_soft), " a user")};
  if (!limits.pids_max.has_value() || !limits.pids_current.has_value()) {
    absl::StrAppend(&finding.found, "; the cgroup has no limit that can be read");
    return finding;
  }
  const uint64_t left = *limits.pids_max - std::min(*limits.pids_max, *limits.pids_current);
  absl::StrAppend(&finding.found, "; the cgroup has ", *limits.pids_current, " of ",
                  *limits.pids_max);
  if (left >= need) return finding;
  finding.level = Level::kFailure;
  finding.meaning = absl::StrCat("a VM has about ", need,
                                 " threads, workers included; VHOST_SET_OWNER says ENOMEM");
  finding.mend = {"systemd: TasksMax=infinity", "or: echo max >/sys/fs/cgroup/.../pids.max"};
  return finding;
}

Finding JudgeRegions(const LimitFacts& limits) {
  Finding finding = {.check = "memory regions (max_mem_regions)"};
  if (!limits.max_mem_regions.has_value()) {
    finding.level = Level::kNote;
    finding.found = "unknown: the module vhost is not loaded";
    return finding;
  }
  finding.found = absl::StrCat(
      *limits.max_mem_regions, "; IOTLB entries ",
      limits.max_iotlb_entries.has_value() ? absl::StrCat(*limits.max_iotlb_entries) : "unknown");
  // A guest without hot-plugged memory has two or three.
  constexpr long kFewest = 8;
  const bool is_low = *limits.max_mem_regions < kFewest ||
                      limits.max_iotlb_entries.value_or(kFewest) < *limits.max_mem_regions;
  if (is_low || *limits.max_mem_regions <= kernel_abi::kVhostDefaultMaxMemRegions) {
    finding.level = is_low ? Level::kFailure : Level::kNote;
    finding.meaning = is_low ? "guest memory may not fit into vhost's table"
                             : "a guest with more regions than that, by much hot-plugged memory, "
                               "cannot be offloaded";
    finding.mend = {
        "echo options vhost max_mem_regions=509 >/etc/modprobe.d/vhost.conf && modprobe "
        "-r vhost_net vhost_vsock vhost && modprobe vhost_net"};
  }
  return finding;
}

Finding JudgeUser(const PlaceFacts& place) {
  return {.check = "user",
          .found =
              absl::StrCat(place.user, ", ", place.net_admin ? "with" : "without", " CAP_NET_ADMIN",
                           place.seccomp_filter ? ", under a seccomp filter" : "",
                           place.first_user_namespace ? "" : ", in a user namespace")};
}

Finding JudgeNetworkNamespace(const PlaceFacts& place) {
  Finding finding = {.check = "network namespace"};
  if (!place.network_namespace_is_inits.has_value()) {
    finding.found = "unknown whether it is init's: /proc/1/ns may not be read";
  } else if (*place.network_namespace_is_inits) {
    finding.found = "the first one's (init's)";
  } else {
    finding.level = Level::kNote;
    finding.found = "one of its own";
    finding.meaning = "TAPs are made and looked for in here, bridges of the host are not here";
  }
  return finding;
}

}  // namespace

const char* Name(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kWarning:
      return "warning";
    case Level::kFailure:
      return "failure";
  }
  return "unknown";
}

const char* Name(Purpose purpose) {
  switch (purpose) {
    case Purpose::kNet:
      return "net";
    case Purpose::kVsock:
      return "vsock";
    case Purpose::kKvm:
      return "kvm";
    case Purpose::kInProcess:
      return "in-process";
  }
  return "unknown";
}

bool Area::possible() const {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& finding) { return finding.level == Level::kFailure; });
}

std::vector<Finding> JudgeLimits(const HostFacts& facts, const Wanted& wanted) {
  std::vector<Finding> findings = {JudgeFds(facts.limits, wanted),
                                   JudgeThreads(facts.limits, wanted), JudgeRegions(facts.limits)};
  findings.push_back({.check = "locked memory (RLIMIT_MEMLOCK)",
                      .found = absl::StrCat(Limit(facts.limits.memlock_soft),
                                            facts.limits.memlock_soft == UINT64_MAX ? "" : " bytes",
                                            "; vhost-net and vhost-vsock lock none")});
  return findings;
}

Finding JudgeIoUring(const HostFacts& facts) {
  const IoUringFacts& ring = facts.io_uring;
  Finding finding = {.check = "io_uring"};
  const std::string setting = ring.disabled.has_value()
                                  ? absl::StrCat(" (kernel.io_uring_disabled=", *ring.disabled, ")")
                                  : "";
  if (ring.error == 0) {
    finding.found = absl::StrCat("rings can be made", setting);
    return finding;
  }
  finding.level = Level::kWarning;
  finding.found = absl::StrCat("io_uring_setup: ", kernel_abi::ErrnoText(ring.error), setting);
  finding.meaning = "the in-process data path serves with plain system calls, which cost more";
  if (ring.error == ENOSYS && !facts.place.seccomp_filter) {
    finding.mend = {"boot a kernel with CONFIG_IO_URING"};
  } else if (ring.disabled == 2) {
    finding.mend = {"sysctl kernel.io_uring_disabled=0"};
  } else if (ring.disabled == 1) {
    finding.mend = {"sysctl kernel.io_uring_disabled=0",
                    ring.group.value_or(-1) >= 0
                        ? absl::StrCat("or: usermod -a -G ", *ring.group, " ", facts.place.user,
                                       "   # kernel.io_uring_group")
                        : absl::StrCat("or name a group of user ", facts.place.user,
                                       ": sysctl kernel.io_uring_group=GID")};
  } else if (facts.place.seccomp_filter) {
    finding.mend = {
        "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp "
        "filter (Docker: --security-opt seccomp=PROFILE)"};
  } else if (ring.error == ENOMEM) {
    finding.mend = {"ulimit -l unlimited   # kernels before 5.12 count rings as locked memory"};
  }
  return finding;
}

std::vector<Finding> JudgePlace(const HostFacts& facts) {
  const PlaceFacts& place = facts.place;
  std::vector<Finding> findings = {
      {.check = "kernel", .found = place.release}, JudgeUser(place), JudgeNetworkNamespace(place)};
  if (!place.vsock_namespace_mode.empty()) {
    findings.push_back(
        {.check = "vsock namespace mode",
         .level = place.vsock_namespace_mode == "local" ? Level::kNote : Level::kOk,
         .found = place.vsock_namespace_mode,
         .meaning = place.vsock_namespace_mode == "local"
                        ? "CIDs here are this network namespace's own: nobody outside reaches them"
                        : ""});
  }
  if (place.local_cid.has_value()) {
    findings.push_back({.check = "this machine",
                        .level = Level::kNote,
                        .found = absl::StrCat("is a guest itself, with CID ", *place.local_cid),
                        .meaning = "no guest of its can have that CID"});
  }
  return findings;
}

Diagnosis Diagnose(const HostFacts& facts, const Wanted& wanted) {
  Diagnosis diagnosis;
  const auto area = [&](Purpose purpose, const char* title, std::vector<Finding> findings) {
    diagnosis.areas.push_back({purpose, title, std::move(findings)});
  };
  area(Purpose::kNet, "Network devices offloaded to vhost-net", JudgeVhost(facts, facts.net));
  for (Finding& finding : JudgeTaps(facts, wanted)) {
    diagnosis.areas.back().findings.push_back(std::move(finding));
  }
  area(Purpose::kVsock, "Socket devices offloaded to vhost-vsock", JudgeVhost(facts, facts.vsock));
  if (facts.cid.has_value()) diagnosis.areas.back().findings.push_back(JudgeCid(*facts.cid));
  area(Purpose::kKvm, "Guests wired to vhost by KVM", JudgeKvm(facts));
  area(Purpose::kInProcess, "Devices served in the VMM's process", {JudgeIoUring(facts)});
  diagnosis.host = JudgePlace(facts);
  for (Finding& finding : JudgeLimits(facts, wanted)) {
    diagnosis.host.push_back(std::move(finding));
  }
  return diagnosis;
}

}  // namespace vhost::ctl

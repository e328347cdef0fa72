// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/foreign/process.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernel-abi/system_error.h"
#include "src/vhostctl/proc_files.h"
#include "vhost/kernel/proc_thread.h"

namespace vhost::ctl {
namespace {

constexpr absl::string_view kWorkerPrefix = "vhost-";
// A process with more is passed over beyond that: its fds are looked at one by one.
constexpr size_t kMostFds = 65536;

// What a command line says is cut at this: it may be megabytes.
constexpr size_t kMostNameBytes = 64;
constexpr size_t kMostClaimedCids = 16;

std::string Cut(absl::string_view name) {
  if (name.size() <= kMostNameBytes) return std::string(name);
  return absl::StrCat(name.substr(0, kMostNameBytes - 3), "...");
}

std::optional<ForeignDevice> DeviceOf(int fd, absl::string_view target) {
  ForeignDevice device = {.fd = fd, .node = std::string(target)};
  if (target == "/dev/vhost-net") {
    device.type = "net";
    device.vrings = 2;
  } else if (target == "/dev/vhost-vsock") {
    device.type = "vsock";
    device.vrings = 2;
  } else if (target == "/dev/vhost-scsi") {
    device.type = "scsi";
  } else if (absl::StartsWith(target, "/dev/vhost-vdpa-")) {
    device.type = "vdpa";
  } else {
    return std::nullopt;
  }
  return device;
}

void LookAtFds(const std::string& folder, ForeignProcess* process) {
  int error = 0;
  const std::vector<std::string> fds = NamesIn(folder + "/fd", &error);
  if (error != 0) {
    process->fds_unknown = absl::StrCat(folder, "/fd: ", kernel_abi::ErrnoText(error),
                                        error == EACCES ? "; ask as root or as its user" : "");
    return;
  }
  std::map<std::string, ForeignTap> taps;
  for (size_t i = 0; i < std::min(fds.size(), kMostFds); ++i) {
    int number = -1;
    const std::string link = absl::StrCat(folder, "/fd/", fds[i]);
    const std::optional<std::string> target = ReadLink(link);
    if (!target.has_value() || !absl::SimpleAtoi(fds[i], &number)) continue;
    const std::string info = absl::StrCat(folder, "/fdinfo/", fds[i]);
    if (auto device = DeviceOf(number, *target); device.has_value()) {
      if (IsNode(link, *target)) process->devices.push_back(*std::move(device));
    } else if (*target == "/dev/net/tun") {
      const std::string name = StatusField(ReadText(info).value_or(""), "iff");
      if (name.empty()) continue;
      ForeignTap& tap = taps[name];
      tap.name = name;
      tap.fd = number;
      ++tap.queues;
    } else if (*target == "anon_inode:[eventfd]") {
      uint64_t count = 0;
      ++process->eventfds;
      if (absl::SimpleHexAtoi(StatusField(ReadText(info).value_or(""), "eventfd-count"), &count)) {
        process->eventfd_count += count;
      }
    } else if (absl::StartsWith(*target, "anon_inode:kvm-vcpu")) {
      ++process->vcpus;
    }
  }
  for (const auto& [name, tap] : taps) process->taps.push_back(tap);
}

// The name that a command line gives to its VM, as QEMU, crosvm and libvirt spell it.
void LookAtCommandLine(const std::string& folder, ForeignProcess* process) {
  const std::vector<std::string> words =
      absl::StrSplit(ReadText(folder + "/cmdline").value_or(""), '\0', absl::SkipEmpty());
  for (size_t i = 0; i < words.size(); ++i) {
    const bool is_name = words[i] == "-name" || words[i] == "--name";
    for (absl::string_view part : absl::StrSplit(words[i], ',')) {
      if (absl::ConsumePrefix(&part, "guest-cid=") &&
          process->claimed_cids.size() < kMostClaimedCids) {
        process->claimed_cids.push_back(Cut(part));
      }
    }
    if (!is_name || i + 1 == words.size()) continue;
    absl::string_view name = words[i + 1];
    name = name.substr(0, name.find(','));
    absl::ConsumePrefix(&name, "guest=");
    process->vm = Cut(name);
  }
}

// comm of a vhost worker: "vhost-" and the tid of the thread that owned the device.
bool IsWorker(absl::string_view name, pid_t* owner) {
  return absl::ConsumePrefix(&name, kWorkerPrefix) && absl::SimpleAtoi(name, owner) && *owner > 0;
}

std::string CommOf(const std::string& folder) {
  return std::string(absl::StripSuffix(ReadText(folder + "/comm").value_or(""), "\n"));
}

WorkerReport LookAtWorker(const std::string& folder, pid_t tid) {
  WorkerReport worker = {.tid = tid, .name = CommOf(folder)};
  const std::vector<std::string> ran =
      absl::StrSplit(ReadText(folder + "/schedstat").value_or(""), ' ');
  uint64_t ns = 0;
  if (absl::SimpleAtoi(ran[0], &ns)) worker.cpu_time_ns = ns;
  worker.affinity = internal::AffinityFromStatus(ReadText(folder + "/status").value_or(""));
  worker.nice = internal::NiceFromStat(ReadText(folder + "/stat").value_or(""));
  worker.cgroup = internal::CgroupPath(ReadText(folder + "/cgroup").value_or(""));
  if (!worker.cpu_time_ns.has_value()) worker.unknown_because = "it has no schedstat";
  return worker;
}

// Workers as threads of their owner's (Linux 6.4 and later). Returns the ids of all threads.
std::set<pid_t> LookAtThreads(const std::string& folder, ForeignProcess* process) {
  std::set<pid_t> tids;
  for (const std::string& name : NamesIn(folder + "/task")) {
    pid_t tid = 0;
    pid_t owner = 0;
    if (!absl::SimpleAtoi(name, &tid)) continue;
    tids.insert(tid);
    const std::string thread = absl::StrCat(folder, "/task/", name);
    if (tid != process->pid && IsWorker(CommOf(thread), &owner)) {
      process->workers.push_back(LookAtWorker(thread, tid));
    }
  }
  return tids;
}

// Workers that are the kernel's own threads (before 6.4, and by choice since 6.17), by the thread
// that their names tell of.
struct KernelThread {
  pid_t tid;
  pid_t owner;
};
std::vector<KernelThread> KernelWorkers(const std::string& proc,
                                        const std::vector<std::string>& names) {
  constexpr absl::string_view kKthreadd = "2";
  std::vector<KernelThread> workers;
  for (const std::string& name : names) {
    KernelThread worker = {};
    const std::string folder = absl::StrCat(proc, "/", name);
    if (!absl::SimpleAtoi(name, &worker.tid) || !IsWorker(CommOf(folder), &worker.owner)) continue;
    if (StatusField(ReadText(folder + "/status").value_or(""), "PPid") != kKthreadd) continue;
    workers.push_back(worker);
  }
  return workers;
}

}  // namespace

bool IsNode(const std::string& link, absl::string_view target) {
  constexpr unsigned kMiscMajor = 10;
  constexpr unsigned kNetMinor = 238;
  constexpr unsigned kVsockMinor = 241;
  struct stat found {};
  // The link of /proc leads to the open file itself: it fails only if that was closed meanwhile.
  if (stat(link.c_str(), &found) != 0) return errno == ENOENT;
  if (!S_ISCHR(found.st_mode)) return false;
  if (target == "/dev/vhost-net") return found.st_rdev == makedev(kMiscMajor, kNetMinor);
  if (target == "/dev/vhost-vsock") return found.st_rdev == makedev(kMiscMajor, kVsockMinor);
  return true;
}

std::vector<ForeignProcess> FindForeign(const std::set<pid_t>& known, const std::string& proc) {
  std::vector<ForeignProcess> found;
  const std::vector<std::string> names = NamesIn(proc);
  const std::vector<KernelThread> kernel_workers = KernelWorkers(proc, names);
  const std::optional<std::string> our_namespace = ReadLink(proc + "/self/ns/net");
  for (const std::string& name : names) {
    ForeignProcess process;
    if (!absl::SimpleAtoi(name, &process.pid) || known.contains(process.pid)) continue;
    const std::string folder = absl::StrCat(proc, "/", name);
    LookAtFds(folder, &process);
    if (process.fds_unknown.empty() && process.devices.empty()) continue;
    const std::set<pid_t> tids = LookAtThreads(folder, &process);
    for (const KernelThread& worker : kernel_workers) {
      if (tids.contains(worker.owner)) {
        process.workers.push_back(LookAtWorker(absl::StrCat(proc, "/", worker.tid), worker.tid));
      }
    }
    if (process.devices.empty() && process.workers.empty()) continue;
    process.command = CommOf(folder);
    process.vm = process.command;
    LookAtCommandLine(folder, &process);
    uid_t uid = 0;
    const std::string uids = StatusField(ReadText(folder + "/status").value_or(""), "Uid");
    if (absl::SimpleAtoi(uids.substr(0, uids.find('\t')), &uid)) process.user = UserName(uid);
    process.cgroup = internal::CgroupPath(ReadText(folder + "/cgroup").value_or(""));
    process.network_namespace = ReadLink(folder + "/ns/net");
    process.network_namespace_is_ours =
        process.network_namespace.has_value() && process.network_namespace == our_namespace;
    found.push_back(std::move(process));
  }
  std::sort(found.begin(), found.end(),
            [](const ForeignProcess& a, const ForeignProcess& b) { return a.pid < b.pid; });
  return found;
}

std::vector<Unknown> Unknowns(const ForeignProcess& process, const ForeignDevice& device) {
  std::vector<Unknown> unknowns;
  if (device.fd < 0) {
    unknowns.push_back({"devices", process.fds_unknown});
    return unknowns;
  }
  const char* owner_only = "the kernel tells it to the owner alone (EPERM for others)";
  const char* never = "the kernel has no request that tells it";
  unknowns.push_back({"state", "whether a driver runs is not told; CPU time of the worker hints"});
  if (!device.vhost_offered.has_value()) {
    unknowns.push_back({"offered features", device.vhost_offered_unknown});
  }
  unknowns.push_back({"acked features", never});
  unknowns.push_back({"memory table", never});
  unknowns.push_back({"ring addresses and sizes", never});
  unknowns.push_back({"ring positions", owner_only});
  unknowns.push_back(
      {"kick, call and error eventfds", "which of its eventfds they are is not told"});
  if (device.type == "vsock") {
    unknowns.push_back({"guest CID", process.claimed_cids.empty()
                                         ? never
                                         : absl::StrCat(never, "; its command line says ",
                                                        absl::StrJoin(process.claimed_cids, ","))});
  }
  if (device.type == "net" && process.taps.size() != 1) {
    unknowns.push_back(
        {"TAP", process.taps.empty()
                    ? "it has none open: vhost keeps what it was given (or it is a packet socket)"
                    : "which of its TAPs a vhost fd is attached to is not told"});
  }
  if (process.workers.empty()) {
    unknowns.push_back({"worker",
                        "no thread has the name of one: the device has no owner yet, or "
                        "the process is in another pid namespace"});
  } else if (process.workers.size() > 1) {
    unknowns.push_back({"worker", "which of its workers serves which vhost fd is not told"});
  }
  if (!process.network_namespace.has_value()) {
    unknowns.push_back({"network namespace", "ask as root or as its user"});
  }
  return unknowns;
}

std::string PeerOf(const ForeignProcess& process, const ForeignDevice& device) {
  if (device.type != "net" || process.taps.empty()) return "?";
  const std::string names = absl::StrJoin(
      process.taps, ",",
      [](std::string* out, const ForeignTap& tap) { absl::StrAppend(out, tap.name); });
  return process.taps.size() == 1 ? names : absl::StrCat("one of ", names);
}

std::string WorkersOf(const ForeignProcess& process) {
  if (process.workers.empty()) return "?";
  const std::string tids = absl::StrJoin(
      process.workers, ",",
      [](std::string* out, const WorkerReport& worker) { absl::StrAppend(out, worker.tid); });
  return process.workers.size() == 1 || process.devices.size() == 1 ? tids
                                                                    : absl::StrCat("one of ", tids);
}

std::string NameOf(const ForeignDevice& device) {
  return device.fd < 0 ? "?" : absl::StrCat("fd", device.fd);
}

}  // namespace vhost::ctl

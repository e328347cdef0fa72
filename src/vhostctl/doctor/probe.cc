// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/node.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/vhost.h"
#include "src/vhostctl/doctor/host_facts.h"
#include "src/vhostctl/proc_files.h"
#include "vhost/kernel/proc_thread.h"

namespace vhost::ctl {
namespace {

using kernel_abi::Call;
using kernel_abi::Kernel;
using kernel_abi::Subject;
using kernel_abi::UniqueFd;

// Whether RELEASE's modules are on the disk and `module` is among them.
std::optional<bool> ModuleExists(const std::string& release, absl::string_view module) {
  const std::string folder = absl::StrCat("/lib/modules/", release, "/");
  const std::string names = absl::StrCat(ReadText(folder + "modules.dep").value_or(""),
                                         ReadText(folder + "modules.builtin").value_or(""));
  if (names.empty()) return std::nullopt;
  // File names have '_' or '-' as their authors liked.
  return absl::StrContains(absl::StrReplaceAll(names, {{"-", "_"}}),
                           absl::StrCat("/", module, ".ko"));
}

NodeFacts ProbeNode(Kernel& kernel, const char* path, const char* module,
                    const std::string& release, UniqueFd* fd) {
  NodeFacts facts = {.path = path, .module = module};
  facts.module_exists = ModuleExists(release, module);
  absl::StatusOr<UniqueFd> opened = kernel_abi::OpenNode(kernel, path);
  facts.open = opened.status();
  if (opened.ok()) *fd = *std::move(opened);
  // What the open may have changed is looked at behind it.
  facts.module_loaded = std::filesystem::exists(absl::StrCat("/sys/module/", module));
  struct stat status {};
  if (stat(path, &status) != 0) return facts;
  facts.exists = true;
  facts.mode = status.st_mode & 0777;
  facts.owner = UserName(status.st_uid);
  facts.group = GroupName(status.st_gid);
  struct statvfs mount {};
  facts.on_nodev_mount = statvfs(path, &mount) == 0 && (mount.f_flag & ST_NODEV) != 0;
  return facts;
}

VhostFacts ProbeVhost(Kernel& kernel, const char* path, const char* module,
                      const std::string& release) {
  VhostFacts facts;
  UniqueFd fd;
  facts.node = ProbeNode(kernel, path, module, release, &fd);
  if (!fd.valid()) {
    facts.owner = facts.node.open;
    return facts;
  }
  const Subject subject = {kernel, fd.get(), path};
  uint64_t word = 0;
  if (Call(subject, kernel_abi::kVhostGetFeatures, word).ok()) {
    facts.features = VhostFeatures::FromWords(word);
  }
  kernel_abi::FeatureArray array;
  if (Call(subject, kernel_abi::kVhostGetFeaturesArray, array).ok()) {
    facts.wide_features = true;
    facts.features = VhostFeatures::FromWords(array.words[0], array.words[1]);
  }
  word = 0;
  if (Call(subject, kernel_abi::kVhostGetBackendFeatures, word).ok()) facts.backend_features = word;
  kernel_abi::ForkMode mode = kernel_abi::ForkMode::kKernelThread;
  if (Call(subject, kernel_abi::kVhostGetForkFromOwner, mode).ok()) {
    facts.worker_is_owners_task = mode == kernel_abi::ForkMode::kOwnerTask;
  }
  facts.owner = Call(subject, kernel_abi::kVhostSetOwner).status();
  return facts;
}

std::optional<CidFacts> ProbeCid(Kernel& kernel, std::optional<uint64_t> cid) {
  if (!cid.has_value()) return std::nullopt;
  constexpr uint64_t kCidsTried = 256;
  CidFacts facts = {.cid = *cid};
  absl::StatusOr<UniqueFd> fd = kernel_abi::OpenNode(kernel, kernel_abi::kVhostVsockPath);
  facts.claim = fd.status();
  if (!fd.ok()) return facts;
  const Subject subject = {kernel, fd->get(), kernel_abi::kVhostVsockPath};
  facts.claim = Call(subject, kernel_abi::kVhostVsockSetGuestCid, *cid).status();
  if (kernel_abi::GetErrno(facts.claim) != EADDRINUSE) return facts;
  for (uint64_t next = *cid + 1; next <= *cid + kCidsTried; ++next) {
    if (!Call(subject, kernel_abi::kVhostVsockSetGuestCid, next).ok()) continue;
    facts.next_free = next;
    break;
  }
  return facts;
}

TunFacts ProbeTun(Kernel& kernel, const std::string& release) {
  TunFacts facts;
  UniqueFd fd;
  facts.node = ProbeNode(kernel, kernel_abi::kTunPath, "tun", release, &fd);
  unsigned features = 0;
  if (fd.valid() &&
      Call({kernel, fd.get(), kernel_abi::kTunPath}, kernel_abi::kTunGetFeatures, features).ok()) {
    facts.features = features;
  }
  return facts;
}

std::vector<TapFacts> FindTaps() {
  std::vector<TapFacts> taps;
  for (const std::string& name : NamesIn("/sys/class/net")) {
    const std::string folder = absl::StrCat("/sys/class/net/", name, "/");
    const std::optional<std::string> text = ReadText(folder + "tun_flags");
    TapFacts tap = {.name = name};
    if (!text.has_value() || !absl::SimpleHexAtoi(absl::StripAsciiWhitespace(*text), &tap.flags)) {
      continue;
    }
    // -1: nobody's in particular.
    if (const auto owner = ReadNumber(folder + "owner"); owner.value_or(-1) >= 0) {
      tap.owner = static_cast<uid_t>(*owner);
    }
    if (const auto group = ReadNumber(folder + "group"); group.value_or(-1) >= 0) {
      tap.group = static_cast<gid_t>(*group);
    }
    taps.push_back(std::move(tap));
  }
  return taps;
}

constexpr std::array kCapabilities = {unsigned{KVM_CAP_IRQCHIP},
                                      unsigned{KVM_CAP_USER_MEMORY},
                                      unsigned{KVM_CAP_IRQFD},
                                      unsigned{KVM_CAP_IOEVENTFD},
                                      unsigned{KVM_CAP_IRQ_ROUTING},
                                      unsigned{KVM_CAP_SIGNAL_MSI},
                                      unsigned{KVM_CAP_NR_MEMSLOTS},
                                      unsigned{KVM_CAP_MAX_VCPUS},
                                      unsigned{KVM_CAP_SPLIT_IRQCHIP},
                                      unsigned{KVM_CAP_IRQFD_RESAMPLE},
                                      unsigned{KVM_CAP_IOEVENTFD_ANY_LENGTH}};

KvmFacts ProbeKvm(Kernel& kernel, const std::string& release) {
  KvmFacts facts;
  UniqueFd fd;
  facts.node = ProbeNode(kernel, kernel_abi::kKvmPath, "kvm", release, &fd);
  facts.vm = facts.node.open;
  if (!fd.valid()) return facts;
  const Subject subject = {kernel, fd.get(), kernel_abi::kKvmPath};
  if (const auto version = Call(subject, kernel_abi::kKvmGetApiVersion); version.ok()) {
    facts.api_version = *version;
  }
  for (const unsigned capability : kCapabilities) {
    const auto answer =
        Call(subject, kernel_abi::kKvmCheckExtension, kernel_abi::ByValue<unsigned>{capability});
    facts.capabilities[capability] = answer.value_or(0);
  }
  const auto vm = Call(subject, kernel_abi::kKvmCreateVm, kernel_abi::ByValue<unsigned>{0});
  facts.vm = vm.status();
  if (vm.ok()) const UniqueFd close(*vm);
  return facts;
}

uint64_t Soft(rlimit limit) {
  return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}
uint64_t Hard(rlimit limit) {
  return limit.rlim_max == RLIM_INFINITY ? UINT64_MAX : limit.rlim_max;
}

LimitFacts ProbeLimits(Kernel& kernel) {
  LimitFacts facts;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    facts.nofile_soft = Soft(limit);
    facts.nofile_hard = Hard(limit);
  }
  if (getrlimit(RLIMIT_NPROC, &limit) == 0) facts.nproc_soft = Soft(limit);
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) facts.memlock_soft = Soft(limit);
  const auto cgroup = internal::CgroupPath(ReadText("/proc/self/cgroup").value_or(""));
  if (cgroup.has_value()) {
    const std::string folder = absl::StrCat("/sys/fs/cgroup", *cgroup, "/");
    const auto max = ReadNumber(folder + "pids.max");
    const auto current = ReadNumber(folder + "pids.current");
    if (max.has_value() && current.has_value()) {
      facts.pids_max = static_cast<uint64_t>(*max);
      facts.pids_current = static_cast<uint64_t>(*current);
    }
  }
  const auto regions = kernel_abi::ReadNumber(kernel, kernel_abi::kVhostMaxMemRegionsPath);
  if (regions.ok()) facts.max_mem_regions = *regions;
  const auto entries = kernel_abi::ReadNumber(kernel, kernel_abi::kVhostMaxIotlbEntriesPath);
  if (entries.ok()) facts.max_iotlb_entries = *entries;
  return facts;
}

IoUringFacts ProbeIoUring() {
  IoUringFacts facts = {.disabled = ReadNumber("/proc/sys/kernel/io_uring_disabled"),
                        .group = ReadNumber("/proc/sys/kernel/io_uring_group")};
  std::array<uint32_t, 30> parameters = {};  // struct io_uring_params
  const UniqueFd ring(static_cast<int>(syscall(__NR_io_uring_setup, 2, parameters.data())));
  if (!ring.valid()) facts.error = errno;
  return facts;
}

PlaceFacts ProbePlace(Kernel& kernel) {
  PlaceFacts facts;
  utsname name{};
  if (uname(&name) == 0) facts.release = name.release;
  facts.uid = geteuid();
  facts.user = UserName(facts.uid);
  const int count = getgroups(0, nullptr);
  facts.groups.resize(count > 0 ? static_cast<size_t>(count) : 0);
  if (count > 0 && getgroups(count, facts.groups.data()) != count) facts.groups.clear();
  facts.groups.push_back(getegid());

  const std::string status = ReadText("/proc/self/status").value_or("");
  uint64_t capabilities = 0;
  constexpr int kCapNetAdmin = 12;
  if (absl::SimpleHexAtoi(StatusField(status, "CapEff"), &capabilities)) {
    facts.net_admin = (capabilities >> kCapNetAdmin & 1) != 0;
  }
  facts.seccomp_filter = StatusField(status, "Seccomp") == "2";
  // The first user namespace maps every id to itself.
  const std::vector<std::string> map = absl::StrSplit(ReadText("/proc/self/uid_map").value_or(""),
                                                      absl::ByAnyChar(" \n"), absl::SkipEmpty());
  facts.first_user_namespace = map.size() == 3 && map[0] == "0" && map[1] == "0";

  std::error_code error;
  const auto own = std::filesystem::read_symlink("/proc/self/ns/net", error);
  const auto inits = std::filesystem::read_symlink("/proc/1/ns/net", error);
  if (!own.empty() && !inits.empty()) facts.network_namespace_is_inits = own == inits;
  facts.vsock_namespace_mode =
      std::string(absl::StripAsciiWhitespace(ReadText("/proc/sys/net/vsock/ns_mode").value_or("")));
  uint32_t cid = 0;
  const UniqueFd vsock(kernel.Open(kernel_abi::kVsockPath, O_RDONLY));
  if (vsock.valid() &&
      Call({kernel, vsock.get(), kernel_abi::kVsockPath}, kernel_abi::kVsockGetLocalCid, cid)
          .ok() &&
      cid > 2 && cid != UINT32_MAX) {
    facts.local_cid = cid;
  }
  return facts;
}

}  // namespace

HostFacts ProbeHost(Kernel& kernel, std::optional<uint64_t> cid) {
  HostFacts facts;
  facts.place = ProbePlace(kernel);
  const std::string& release = facts.place.release;
  facts.net = ProbeVhost(kernel, kernel_abi::kVhostNetPath, "vhost_net", release);
  facts.vsock = ProbeVhost(kernel, kernel_abi::kVhostVsockPath, "vhost_vsock", release);
  facts.cid = ProbeCid(kernel, cid);
  facts.tun = ProbeTun(kernel, release);
  facts.taps = FindTaps();
  facts.kvm = ProbeKvm(kernel, release);
  facts.limits = ProbeLimits(kernel);
  facts.io_uring = ProbeIoUring();
  return facts;
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What vhost, TAP devices and KVM can do here.
#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/vhost.h"
#include "src/vhostctl/doctor/diagnosis.h"

namespace vhost::ctl {
namespace {

std::string TextOf(const absl::Status& status) { return std::string(status.message()); }

Finding JudgeFeatures(const VhostFacts& vhost, DeviceId id) {
  const std::vector<std::string> names = FeatureNames(id, vhost.features);
  return {.check = "features", .found = absl::StrJoin(names, " ")};
}

// What a guest does not get because this kernel lacks it.
std::vector<Finding> JudgeMissing(const VhostFacts& vhost) {
  constexpr struct {
    VirtioFeature feature;
    const char* meaning;
  } kWorthKnowing[] = {
      {VirtioFeature::kInOrder, "used entries in order cost less; Linux 6.18 has it"},
      {VirtioFeature::kRingPacked,
       "vhost serves split rings only; packed rings are served in-process"},
  };
  std::vector<Finding> findings;
  for (const auto& row : kWorthKnowing) {
    const auto bit = static_cast<VhostFeature>(row.feature);
    if (vhost.features.Has(bit)) continue;
    findings.push_back({.check = "features",
                        .level = Level::kNote,
                        .found = absl::StrCat("no ", FeatureName(DeviceId::kNet, row.feature)),
                        .meaning = row.meaning});
  }
  return findings;
}

std::vector<std::string> RequestsOf(const VhostFacts& vhost) {
  std::vector<std::string> known = {"VHOST_GET_FEATURES"};
  if (vhost.wide_features) known.push_back("VHOST_GET_FEATURES_ARRAY");
  if (vhost.backend_features.has_value()) known.push_back("VHOST_GET_BACKEND_FEATURES");
  if (vhost.worker_is_owners_task.has_value()) known.push_back("VHOST_GET_FORK_FROM_OWNER");
  return known;
}

Finding JudgeWorker(const VhostFacts& vhost) {
  Finding finding = {.check = "worker"};
  if (vhost.owner.ok()) {
    finding.found = "VHOST_SET_OWNER made a worker";
    if (vhost.worker_is_owners_task.has_value()) {
      absl::StrAppend(&finding.found, *vhost.worker_is_owners_task
                                          ? ", a thread of the VMM's (the default here)"
                                          : ", a thread of the kernel's (the default here)");
    }
    return finding;
  }
  finding.level = Level::kFailure;
  finding.found = TextOf(vhost.owner);
  if (kernel_abi::GetErrno(vhost.owner) == ENOMEM) {
    finding.meaning =
        "the kernel says this of any worker that it may not make: too many threads "
        "for RLIMIT_NPROC or the pids cgroup";
    finding.mend = {"ulimit -u unlimited   # see the checks of the host below",
                    "or systemd: LimitNPROC=infinity TasksMax=infinity"};
  }
  return finding;
}

// A TAP that the wanted device could be put on, and if not, why not.
std::string WhyNot(const HostFacts& facts, const TapFacts& tap, const Wanted& wanted) {
  if ((tap.flags & IFF_TAP) == 0) return "it is a TUN device: it has no Ethernet frames";
  const std::vector<gid_t>& groups = facts.place.groups;
  const bool is_mine = facts.place.net_admin ||
                       (tap.owner.has_value() && *tap.owner == facts.place.uid) ||
                       (tap.group.has_value() &&
                        std::find(groups.begin(), groups.end(), *tap.group) != groups.end());
  if (!is_mine) return absl::StrCat("it is not user ", facts.place.user, "'s");
  if (wanted.queue_pairs > 1 && (tap.flags & IFF_MULTI_QUEUE) == 0) {
    return "it was made for one queue (no multi_queue)";
  }
  if (wanted.queue_pairs == 1 && (tap.flags & IFF_MULTI_QUEUE) != 0) {
    return {};  // One queue of many is opened as multi-queue.
  }
  return {};
}

std::string MakeTap(const HostFacts& facts, const Wanted& wanted, absl::string_view name) {
  return absl::StrCat("ip tuntap add dev ", name, " mode tap vnet_hdr",
                      wanted.queue_pairs > 1 ? " multi_queue" : "", " user ", facts.place.user,
                      " && ip link set ", name, " up   # as root");
}

Finding JudgeNamedTap(const HostFacts& facts, const Wanted& wanted) {
  Finding finding = {.check = absl::StrCat("TAP ", wanted.tap), .level = Level::kFailure};
  const auto tap = std::find_if(facts.taps.begin(), facts.taps.end(),
                                [&](const TapFacts& row) { return row.name == wanted.tap; });
  if (tap == facts.taps.end()) {
    if (facts.place.net_admin) {
      finding.level = Level::kOk;
      finding.found = "there is none; the VMM may make it (CAP_NET_ADMIN)";
      return finding;
    }
    finding.found = "there is none in this network namespace";
    finding.mend = {MakeTap(facts, wanted, wanted.tap)};
    return finding;
  }
  const std::string why = WhyNot(facts, *tap, wanted);
  if (!why.empty()) {
    finding.found = why;
    finding.mend = {
        absl::StrCat("ip link delete ", wanted.tap, " && ", MakeTap(facts, wanted, wanted.tap))};
    return finding;
  }
  finding.level = Level::kOk;
  finding.found = "can be attached to, unless a VM has it";
  return finding;
}

Finding JudgeAnyTap(const HostFacts& facts, const Wanted& wanted) {
  Finding finding = {.check = "TAP for this user"};
  if (facts.place.net_admin) {
    finding.found = "may make and attach to any in this network namespace (CAP_NET_ADMIN)";
    return finding;
  }
  std::vector<std::string> usable;
  for (const TapFacts& tap : facts.taps) {
    if (WhyNot(facts, tap, wanted).empty()) usable.push_back(tap.name);
  }
  if (!usable.empty()) {
    finding.found = absl::StrCat("may attach to ", absl::StrJoin(usable, " "));
    return finding;
  }
  finding.level = Level::kFailure;
  finding.found = absl::StrCat("user ", facts.place.user,
                               " has no CAP_NET_ADMIN and there is no TAP of this user's");
  finding.mend = {MakeTap(facts, wanted, "tap0"), "or pass open TAP fds to the VMM"};
  return finding;
}

}  // namespace

std::vector<Finding> JudgeVhost(const HostFacts& facts, const VhostFacts& vhost) {
  std::vector<Finding> findings = {JudgeNode(facts, vhost.node)};
  if (!vhost.node.open.ok()) return findings;
  const bool is_net = vhost.node.module == "vhost_net";
  findings.push_back(JudgeFeatures(vhost, is_net ? DeviceId::kNet : DeviceId::kVsock));
  if (is_net) {
    for (Finding& finding : JudgeMissing(vhost)) findings.push_back(std::move(finding));
  }
  findings.push_back({.check = "requests", .found = absl::StrJoin(RequestsOf(vhost), " ")});
  if (vhost.backend_features.has_value()) {
    findings.back().found += absl::StrCat(
        "; backend features ", kernel_abi::DescribeBackendFeatures(*vhost.backend_features));
  }
  findings.push_back(JudgeWorker(vhost));
  return findings;
}

Finding JudgeCid(const CidFacts& cid) {
  Finding finding = {.check = absl::StrCat("guest CID ", cid.cid)};
  if (cid.claim.ok()) {
    finding.found = "is free";
    return finding;
  }
  finding.level = Level::kFailure;
  finding.found = TextOf(cid.claim);
  switch (kernel_abi::GetErrno(cid.claim)) {
    case EADDRINUSE:
      finding.found = "is taken, by another VM or by this machine itself";
      finding.meaning = "whoever has it keeps it until its last fd of /dev/vhost-vsock is closed";
      finding.mend = {"vhostctl list   # shows who has one open"};
      if (cid.next_free.has_value()) {
        finding.mend.insert(finding.mend.begin(),
                            absl::StrCat("use another one: ", *cid.next_free, " is free"));
      }
      break;
    case EINVAL:
      finding.meaning = "0 to 2 and 4294967295 have other meanings";
      finding.mend = {"use a CID from 3 to 4294967294"};
      break;
    default:
      break;
  }
  return finding;
}

std::vector<Finding> JudgeTaps(const HostFacts& facts, const Wanted& wanted) {
  std::vector<Finding> findings = {JudgeNode(facts, facts.tun.node)};
  if (!facts.tun.node.open.ok()) return findings;
  if (facts.tun.features.has_value()) {
    const unsigned features = *facts.tun.features;
    std::vector<std::string> names;
    if ((features & IFF_VNET_HDR) != 0) names.push_back("IFF_VNET_HDR");
    if ((features & IFF_MULTI_QUEUE) != 0) names.push_back("IFF_MULTI_QUEUE");
    if ((features & IFF_NAPI) != 0) names.push_back("IFF_NAPI");
    const bool enough = (features & IFF_VNET_HDR) != 0 &&
                        (wanted.queue_pairs == 1 || (features & IFF_MULTI_QUEUE) != 0);
    findings.push_back({.check = "TUN features",
                        .level = enough ? Level::kOk : Level::kFailure,
                        .found = absl::StrJoin(names, " "),
                        .meaning = enough ? "" : "checksums, TSO and queue pairs need them"});
  }
  findings.push_back(wanted.tap.empty() ? JudgeAnyTap(facts, wanted)
                                        : JudgeNamedTap(facts, wanted));
  return findings;
}

std::vector<Finding> JudgeKvm(const HostFacts& facts) {
  const KvmFacts& kvm = facts.kvm;
  std::vector<Finding> findings = {JudgeNode(facts, kvm.node)};
  if (!kvm.node.open.ok()) return findings;
  constexpr struct {
    unsigned capability;
    const char* name;
  } kNeeded[] = {{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
                 {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
                 {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
                 {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
                 {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
                 {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"}};
  const auto answer = [&](unsigned capability) {
    const auto found = kvm.capabilities.find(capability);
    return found == kvm.capabilities.end() ? 0 : found->second;
  };
  std::vector<std::string> have, lack;
  for (const auto& row : kNeeded) (answer(row.capability) != 0 ? have : lack).push_back(row.name);
  findings.push_back({.check = "capabilities", .found = absl::StrJoin(have, " ")});
  if (!lack.empty()) {
    findings.push_back({.check = "capabilities",
                        .level = Level::kFailure,
                        .found = absl::StrCat("no ", absl::StrJoin(lack, " ")),
                        .meaning = "kicks and interrupts cannot pass between guest and vhost "
                                   "without a VMM's thread",
                        .mend = {"boot a kernel with CONFIG_HAVE_KVM_IRQFD and an in-kernel "
                                 "interrupt controller"}});
  }
  findings.push_back(
      {.check = "limits of a VM",
       .found = absl::StrCat(answer(KVM_CAP_NR_MEMSLOTS), " memory slots, ",
                             answer(KVM_CAP_MAX_VCPUS), " vCPUs",
                             answer(KVM_CAP_IOEVENTFD_ANY_LENGTH) != 0 ? ", fast MMIO kicks" : "",
                             answer(KVM_CAP_SPLIT_IRQCHIP) != 0 ? ", split irqchip" : "")});
  Finding vm = {.check = "a VM", .found = "can be made"};
  if (!kvm.vm.ok()) {
    vm.level = Level::kFailure;
    vm.found = TextOf(kvm.vm);
    if (kernel_abi::GetErrno(kvm.vm) == EBUSY) {
      vm.meaning = "another hypervisor has the processor's virtualisation";
      vm.mend = {"stop its VMs and unload it, for example: rmmod vboxnetflt vboxdrv"};
    }
  }
  findings.push_back(std::move(vm));
  return findings;
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each obstacle that doctor knows, on hosts that are not at hand: it is named, it has a mend, and
// without it the host passes. Nodes are probed on the fake kernel, the rest are plain values.
#include "src/vhostctl/doctor/diagnosis.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <string>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "src/vhostctl/verb.h"
#include "tests/fakes/fake_kernel.h"

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A host that can do all, whatever this machine is.
HostFacts GoodHost(fakes::FakeKernel& kernel, std::optional<uint64_t> cid = std::nullopt) {
  HostFacts facts = ProbeHost(kernel, cid);
  facts.place = {.release = "6.12.5", .uid = 1000, .user = "vm", .groups = {1000, 108}};
  facts.taps = {{.name = "tap3", .flags = IFF_TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE, .owner = 1000}};
  facts.limits = {.nofile_soft = 1024,
                  .nofile_hard = 4096,
                  .nproc_soft = 10000,
                  .memlock_soft = 65536,
                  .pids_max = 4000,
                  .pids_current = 10,
                  .max_mem_regions = 509,
                  .max_iotlb_entries = 2048};
  facts.io_uring = {.error = 0, .disabled = 0};
  // The fake has no capabilities of a whole KVM.
  for (unsigned capability : {KVM_CAP_IRQCHIP, KVM_CAP_USER_MEMORY, KVM_CAP_IRQFD,
                              KVM_CAP_IOEVENTFD, KVM_CAP_IRQ_ROUTING, KVM_CAP_SIGNAL_MSI}) {
    facts.kvm.capabilities[capability] = 1;
  }
  for (NodeFacts* node : {&facts.net.node, &facts.vsock.node, &facts.tun.node, &facts.kvm.node}) {
    node->owner = "root";
    node->group = "kvm";
    node->mode = 0660;
    node->on_nodev_mount = false;
    node->module_exists = true;
  }
  return facts;
}

std::vector<Finding> Amiss(const Diagnosis& diagnosis) {
  std::vector<Finding> amiss;
  const auto add = [&](const std::vector<Finding>& findings) {
    for (const Finding& finding : findings) {
      if (finding.level >= Level::kWarning) amiss.push_back(finding);
    }
  };
  for (const Area& area : diagnosis.areas) add(area.findings);
  add(diagnosis.host);
  return amiss;
}

// The one thing that is amiss.
Finding Only(const HostFacts& facts, const Wanted& wanted = {}) {
  const std::vector<Finding> amiss = Amiss(Diagnose(facts, wanted));
  EXPECT_EQ(amiss.size(), 1u) << absl::StrJoin(amiss, "\n", [](std::string* out, const Finding& f) {
    out->append(f.check + ": " + f.found);
  });
  return amiss.empty() ? Finding{} : amiss[0];
}

std::string Mend(const Finding& finding) { return absl::StrJoin(finding.mend, "\n"); }

TEST(DiagnosisTest, AGoodHostHasNothingAmiss) {
  fakes::FakeKernel kernel;
  const HostFacts facts = GoodHost(kernel, 7);
  EXPECT_THAT(Amiss(Diagnose(facts, {})), IsEmpty());
  EXPECT_THAT(Amiss(Diagnose(facts, {.queue_pairs = 4, .tap = "tap3"})), IsEmpty());
  for (const Area& area : Diagnose(facts, {}).areas) EXPECT_TRUE(area.possible()) << area.title;
  EXPECT_EQ(kernel.Survivors(), fakes::OpenState{});
}

TEST(DiagnosisTest, ProbingMakesNoRequestThatConfiguresADevice) {
  fakes::FakeKernel kernel;
  ProbeHost(kernel, std::nullopt);
  const std::string calls = kernel.CallText();
  for (const char* request :
       {"TUNSETIFF", "SET_FEATURES", "SET_GUEST_CID", "SET_BACKEND", "SET_MEM"}) {
    EXPECT_THAT(calls, ::testing::Not(HasSubstr(request)));
  }
}

TEST(DiagnosisTest, AModuleThatIsNotLoaded) {
  fakes::FakeKernel kernel({.vhost_net = false});
  HostFacts facts = GoodHost(kernel);
  facts.net.node.module_loaded = false;
  Finding finding = Only(facts);
  EXPECT_EQ(finding.check, "/dev/vhost-net");
  EXPECT_THAT(finding.found, HasSubstr("vhost_net is not loaded"));
  EXPECT_THAT(Mend(finding), HasSubstr("modprobe vhost_net"));
  facts.net.node.module_exists = false;
  finding = Only(facts);
  EXPECT_THAT(finding.found, HasSubstr("kernel 6.12.5 has no module vhost_net"));
  EXPECT_THAT(Mend(finding), HasSubstr("linux-modules-extra"));
  facts.net.node.module_loaded = true;
  finding = Only(facts);
  EXPECT_THAT(finding.meaning, HasSubstr("container"));
  EXPECT_THAT(Mend(finding), HasSubstr("mknod /dev/vhost-net c 10 238"));
}

TEST(DiagnosisTest, ANodeThatThisUserMayNotOpen) {
  fakes::FakeKernel kernel({.open_errors = {{"/dev/vhost-vsock", EACCES}}});
  HostFacts facts = GoodHost(kernel);
  Finding finding = Only(facts);
  EXPECT_THAT(finding.found, HasSubstr("user vm may not open it (root:kvm 0660)"));
  EXPECT_THAT(Mend(finding), HasSubstr("usermod -aG kvm vm"));
  facts.vsock.node.mode = 0600;
  facts.vsock.node.group = "root";
  finding = Only(facts);
  EXPECT_EQ(finding.meaning, "only root may");
  EXPECT_THAT(Mend(finding), HasSubstr("chgrp kvm /dev/vhost-vsock && chmod 0660"));
  EXPECT_THAT(Mend(finding), HasSubstr("KERNEL==\"vhost-vsock\""));
  facts.place.uid = 0;
  facts.place.net_admin = true;
  EXPECT_THAT(Only(facts).meaning, HasSubstr("security module"));
  facts.vsock.node.on_nodev_mount = true;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("mount -o remount,bind,dev /dev/vhost-vsock"));
}

TEST(DiagnosisTest, NodesThatFailInOtherWays) {
  const std::map<int, std::string> words = {
      {EPERM, "device cgroup"}, {ENXIO, "nothing behind it"}, {EMFILE, "no further file"}};
  for (const auto& [error, word] : words) {
    fakes::FakeKernel kernel({.open_errors = {{"/dev/kvm", error}}});
    const Finding finding = Only(GoodHost(kernel));
    EXPECT_THAT(finding.found + finding.meaning, HasSubstr(word));
    EXPECT_FALSE(finding.mend.empty()) << word;
  }
}

TEST(DiagnosisTest, AWorkerThatMayNotBeMade) {
  fakes::FakeKernel kernel({.worker_can_start = false});
  const std::vector<Finding> amiss = Amiss(Diagnose(GoodHost(kernel), {}));
  ASSERT_EQ(amiss.size(), 2u);  // of both nodes
  EXPECT_THAT(amiss[0].meaning, HasSubstr("RLIMIT_NPROC"));
  EXPECT_THAT(Mend(amiss[0]), HasSubstr("ulimit -u"));
}

TEST(DiagnosisTest, ACidThatIsTaken) {
  fakes::FakeKernel kernel({.local_cids = {7, 8}});
  const Finding finding = Only(GoodHost(kernel, 7));
  EXPECT_EQ(finding.check, "guest CID 7");
  EXPECT_THAT(finding.found, HasSubstr("taken"));
  EXPECT_THAT(Mend(finding), HasSubstr("9 is free"));
  EXPECT_THAT(Mend(Only(GoodHost(kernel, 2))), HasSubstr("from 3"));
  EXPECT_THAT(Amiss(Diagnose(GoodHost(kernel, 10), {})), IsEmpty());
}

TEST(DiagnosisTest, TapsThatCannotBeUsed) {
  fakes::FakeKernel kernel;
  HostFacts facts = GoodHost(kernel);
  facts.taps[0].owner = 1001;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("ip tuntap add dev tap0 mode tap vnet_hdr user vm"));
  facts.taps[0].group = 108;
  EXPECT_THAT(Amiss(Diagnose(facts, {})), IsEmpty());
  facts.taps[0].flags = IFF_TAP | IFF_VNET_HDR;
  EXPECT_THAT(Only(facts, {.queue_pairs = 2, .tap = "tap3"}).found, HasSubstr("one queue"));
  EXPECT_THAT(Mend(Only(facts, {.queue_pairs = 2, .tap = "tap9"})),
              HasSubstr("dev tap9 mode tap vnet_hdr multi_queue"));
  facts.taps[0].flags = IFF_TUN;
  EXPECT_THAT(Only(facts, {.tap = "tap3"}).found, HasSubstr("TUN device"));
  facts.place.net_admin = true;
  EXPECT_THAT(Amiss(Diagnose(facts, {.tap = "tap9"})), IsEmpty());
}

TEST(DiagnosisTest, LimitsThatAreTooLow) {
  fakes::FakeKernel kernel;
  HostFacts facts = GoodHost(kernel);
  facts.limits.nofile_soft = 40;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("ulimit -n 4096"));
  facts.limits.nofile_hard = 40;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("ulimit -Hn 65536"));
  facts = GoodHost(kernel);
  EXPECT_THAT(Only(facts, {.queue_pairs = 256, .tap = "tap3"}).found, HasSubstr("about 2096"));
  facts.limits.pids_current = 3999;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("TasksMax=infinity"));
  facts = GoodHost(kernel);
  facts.limits.max_mem_regions = 4;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("max_mem_regions=509"));
}

TEST(DiagnosisTest, IoUringThatIsOff) {
  fakes::FakeKernel kernel;
  HostFacts facts = GoodHost(kernel);
  facts.io_uring = {.error = EPERM, .disabled = 2};
  EXPECT_EQ(Only(facts).level, Level::kWarning);
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("sysctl kernel.io_uring_disabled=0"));
  facts.io_uring = {.error = EPERM, .disabled = 1, .group = 77};
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("usermod -a -G 77 vm"));
  facts.io_uring = {.error = ENOSYS};
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("CONFIG_IO_URING"));
  facts.place.seccomp_filter = true;
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("seccomp"));
}

TEST(DiagnosisTest, KvmThatLacksWhatVhostNeedsOrIsTaken) {
  fakes::FakeKernel kernel;
  HostFacts facts = GoodHost(kernel);
  facts.kvm.capabilities[KVM_CAP_IRQFD] = 0;
  EXPECT_THAT(Only(facts).found, HasSubstr("no KVM_CAP_IRQFD"));
  facts = GoodHost(kernel);
  facts.kvm.vm =
      kernel_abi::MakeSystemError({.error = EBUSY, .subject = "/dev/kvm", .call = "KVM_CREATE_VM"});
  EXPECT_THAT(Mend(Only(facts)), HasSubstr("rmmod vbox"));
}

TEST(DiagnosisTest, TheVerbAnswersOnWhateverHostThisIs) {
  Invocation invocation = {.verb = "doctor"};
  const Outcome text = ctl::Run(invocation);
  EXPECT_THAT(text.out, HasSubstr("Network devices offloaded to vhost-net: "));
  EXPECT_THAT(text.out, HasSubstr("open files (RLIMIT_NOFILE): "));
  invocation.json = true;
  const Outcome json = ctl::Run(invocation);
  EXPECT_THAT(json.out, HasSubstr("\"purpose\": \"vsock\""));
  EXPECT_EQ(json.code, text.code);
  EXPECT_EQ(ctl::Run({.verb = "doctor", .purposes = "net,moon"}).code, kUsage);
  EXPECT_EQ(ctl::Run({.verb = "doctor", .queues = "0"}).code, kUsage);
  EXPECT_EQ(ctl::Run({.verb = "doctor", .cid = "x"}).code, kUsage);
  EXPECT_EQ(ctl::Run({.verb = "doctor", .arguments = {"x"}}).code, kUsage);
}

}  // namespace
}  // namespace vhost::ctl

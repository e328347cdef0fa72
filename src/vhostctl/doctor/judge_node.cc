// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Whether a node can be opened, and if not, why not and what mends it.
#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vhostctl/doctor/diagnosis.h"

namespace vhost::ctl {
namespace {

// Misc and fixed device numbers, for places whose /dev has no node (containers).
const char* DeviceNumbers(absl::string_view path) {
  if (path == "/dev/vhost-net") return "10 238";
  if (path == "/dev/vhost-vsock") return "10 241";
  if (path == "/dev/net/tun") return "10 200";
  return "10 232";  // /dev/kvm
}

std::string Mode(const NodeFacts& node) {
  return absl::StrFormat("%s:%s %04o", node.owner, node.group, node.mode);
}

void MendMissing(const HostFacts& facts, const NodeFacts& node, Finding* finding) {
  if (node.module_loaded) {
    finding->found = absl::StrCat("there is no node, but the module ", node.module, " is there");
    finding->meaning = "this is a container, or /dev is not the kernel's: its maker left it out";
    finding->mend = {absl::StrCat("give the container the node: --device ", node.path),
                     absl::StrCat("or: mknod ", node.path, " c ", DeviceNumbers(node.path))};
    return;
  }
  if (node.module_exists == false) {
    finding->found =
        absl::StrCat("no node; kernel ", facts.place.release, " has no module ", node.module);
    finding->meaning = "it was built without, or its extra modules are not installed";
    finding->mend = {absl::StrCat("install the rest of the modules of ", facts.place.release,
                                  " (linux-modules-extra), or boot another kernel")};
    return;
  }
  finding->found = absl::StrCat("no node; the module ", node.module, " is not loaded");
  if (!node.module_exists.has_value()) {
    finding->meaning = absl::StrCat("there is no /lib/modules/", facts.place.release,
                                    " to look in: the kernel may have been built without it");
  }
  const bool is_kvm = node.module == "kvm";
  finding->mend = {
      is_kvm
          ? "modprobe kvm_intel || modprobe kvm_amd   # virtualisation must be on in the firmware"
          : absl::StrCat("modprobe ", node.module),
      is_kvm ? ""
             : absl::StrCat("and for each boot: echo ", node.module, " >/etc/modules-load.d/",
                            node.module, ".conf")};
  if (finding->mend.back().empty()) finding->mend.pop_back();
}

void MendDenied(const HostFacts& facts, const NodeFacts& node, Finding* finding) {
  finding->found = absl::StrCat("user ", facts.place.user, " may not open it (", Mode(node), ")");
  if (node.on_nodev_mount) {
    finding->meaning = "it is on a mount that allows no devices (nodev)";
    finding->mend = {absl::StrCat("mount -o remount,bind,dev ", node.path)};
    return;
  }
  const bool group_may = (node.mode & 0060) == 0060 && node.group != "root";
  if (facts.place.uid == 0) {
    finding->meaning = "root is refused by something else: a security module or a user namespace";
    finding->mend = {"journalctl -k | grep -i denied   # AppArmor and SELinux tell there",
                     "or pass the open fd to the VMM"};
  } else if (group_may) {
    finding->meaning = absl::StrCat("only root and the group ", node.group, " may");
    finding->mend = {absl::StrCat("usermod -aG ", node.group, " ", facts.place.user,
                                  "   # as root; then log in again"),
                     "or pass the open fd to the VMM"};
  } else {
    finding->meaning = "only root may";
    finding->mend = {
        absl::StrCat("groupadd -rf kvm && chgrp kvm ", node.path, " && chmod 0660 ", node.path,
                     " && usermod -aG kvm ", facts.place.user, "   # as root; then log in again"),
        absl::StrFormat("and for each boot: echo 'KERNEL==\"%s\", GROUP=\"kvm\", MODE=\"0660\"' "
                        ">/etc/udev/rules.d/60-%s.rules",
                        node.path.substr(node.path.rfind('/') + 1),
                        node.path.substr(node.path.rfind('/') + 1)),
        "or pass the open fd to the VMM"};
    if (node.path == "/dev/net/tun") {
      finding->mend = {
          "chmod 0666 /dev/net/tun   # as root; that is usual, and it needs "
          "CAP_NET_ADMIN or a TAP of one's own all the same"};
    }
  }
}

}  // namespace

Finding JudgeNode(const HostFacts& facts, const NodeFacts& node) {
  Finding finding = {.check = node.path};
  if (node.open.ok()) {
    finding.found = absl::StrCat("opens for user ", facts.place.user,
                                 node.exists ? absl::StrCat(" (", Mode(node), ")") : "");
    return finding;
  }
  finding.level = Level::kFailure;
  const int error = kernel_abi::GetErrno(node.open);
  switch (error) {
    case ENOENT:
      MendMissing(facts, node, &finding);
      break;
    case ENODEV:
    case ENXIO:
      finding.found = absl::StrCat("there is a node and nothing behind it: the module ",
                                   node.module, " is not loaded and did not load by itself");
      finding.mend = {absl::StrCat("modprobe ", node.module)};
      break;
    case EACCES:
      MendDenied(facts, node, &finding);
      break;
    case EPERM:
      finding.found = absl::StrCat("EPERM, though its mode is ", Mode(node));
      finding.meaning = "the device cgroup or a sandbox forbids it";
      finding.mend = {absl::StrCat("systemd: DeviceAllow=", node.path, " rw"),
                      absl::StrCat("or a container's: --device ", node.path),
                      "or pass the open fd to the VMM"};
      break;
    case EMFILE:
      finding.found = "this process may open no further file";
      finding.mend = {"ulimit -n 65536"};
      break;
    default:
      finding.found = std::string(node.open.message());
  }
  return finding;
}

}  // namespace vhost::ctl

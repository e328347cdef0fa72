// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Users of vhost that have no control socket (QEMU, crosvm, DPDK), as far as /proc shows them to an
// outsider. Nothing is asked of their devices here, no process is stopped or traced (of the little
// that may be asked, see foreign/borrow.h). What is not told stays unknown, and `Unknowns` says
// why.
#pragma once

#include <sys/types.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "vhost/report.h"

namespace vhost::ctl {

// An fd of a vhost node: a network device's queue pair, a whole socket device.
struct ForeignDevice {
  int fd = -1;
  std::string node;           // "/dev/vhost-net"
  std::string type;           // "net", "vsock", "scsi", "vdpa"
  std::optional<int> vrings;  // that the node has; nullopt: that depends on how it is used
  // What AskTheKernel() is told (foreign/borrow.h); nullopt before.
  std::optional<VhostFeatures> vhost_offered;
  std::string vhost_offered_unknown = "it was not asked for";
};

struct ForeignTap {
  std::string name;                 // of its own network namespace
  int queues = 0;                   // fds
  int fd = -1;                      // one of them
  std::optional<int> header_bytes;  // as AskTheKernel() is told
  std::optional<int> sndbuf_bytes;
};

struct ForeignProcess {
  pid_t pid = 0;
  std::string command;  // comm
  std::string vm;       // a name from its command line, else the command
  std::string user;
  std::vector<ForeignDevice> devices;
  std::vector<ForeignTap> taps;
  std::vector<WorkerReport> workers;
  int eventfds = 0;
  uint64_t eventfd_count = 0;  // sum of what they hold: mostly kicks, which vhost never takes back
  int vcpus = 0;
  std::optional<std::string> cgroup;
  std::optional<std::string> network_namespace;  // "net:[4026531840]"
  bool network_namespace_is_ours = false;
  std::vector<std::string> claimed_cids;  // "guest-cid=" of its command line: a claim, not a fact
  std::string fds_unknown;                // why its fds could not be read; empty: they could
};

// Every process under `proc` that has a vhost node open, or whose fds may not be read but which has
// a vhost worker; without those in `known`. Sorted by pid.
std::vector<ForeignProcess> FindForeign(const std::set<pid_t>& known,
                                        const std::string& proc = "/proc");

struct Unknown {
  std::string what;    // "acked features"
  std::string reason;  // "the kernel has no request that tells them"
};
// What is not to be known of a device of that process, and why.
std::vector<Unknown> Unknowns(const ForeignProcess& process, const ForeignDevice& device);

// The interface that the device is on, if that can be told; otherwise which it may be: "tap0",
// "one of tap0,tap1", "?".
std::string PeerOf(const ForeignProcess& process, const ForeignDevice& device);
// "123", "one of 123,124", "?": the device's worker.
std::string WorkersOf(const ForeignProcess& process);

// `fd23`: the name of a device that has none.
std::string NameOf(const ForeignDevice& device);

// Whether the open file behind `link` is the node that its text, `target`, calls it. That is a path
// in the process's own view of files, where anything may have it: the file must be a device, and
// the one of the node's number where that is fixed.
bool IsNode(const std::string& link, absl::string_view target);

}  // namespace vhost::ctl

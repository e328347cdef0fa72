// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What `vhostctl doctor` looks at, as plain values, so that what it says of them can be tested with
// hosts that are not at hand. Looking changes nothing: nodes are opened as a VMM would open them
// (which may make the kernel load a module), asked, and closed; a worker, a VM and, if one was
// named, a guest CID are tried on such an fd of our own and are gone with it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernel-abi/kernel.h"
#include "vhost/features.h"

namespace vhost::ctl {

// A device node, and the module behind it.
struct NodeFacts {
  std::string path;    // "/dev/vhost-net"
  std::string module;  // "vhost_net"
  bool exists = false;
  mode_t mode = 0;  // permission bits
  std::string owner;
  std::string group;
  bool on_nodev_mount = false;
  bool module_loaded = false;  // or built in
  // Whether the running kernel's modules are on the disk, and this one among them; nullopt: no
  // folder of modules can be read.
  std::optional<bool> module_exists;
  absl::Status open;  // OK: it opens
};

// What a fresh fd of a vhost node answered.
struct VhostFacts {
  NodeFacts node;
  VhostFeatures features;
  bool wide_features = false;                 // VHOST_GET_FEATURES_ARRAY
  std::optional<uint64_t> backend_features;   // VHOST_GET_BACKEND_FEATURES
  std::optional<bool> worker_is_owners_task;  // VHOST_GET_FORK_FROM_OWNER; nullopt: not known here
  absl::Status owner;                         // VHOST_SET_OWNER, which makes a worker
};

struct CidFacts {
  uint64_t cid = 0;
  absl::Status claim;                 // VHOST_VSOCK_SET_GUEST_CID
  std::optional<uint64_t> next_free;  // if it is taken
};

struct TunFacts {
  NodeFacts node;
  std::optional<unsigned> features;  // IFF_*, TUNGETFEATURES
};

// A TAP that there is, by /sys/class/net.
struct TapFacts {
  std::string name;
  unsigned flags = 0;  // IFF_*
  std::optional<uid_t> owner;
  std::optional<gid_t> group;
};

struct KvmFacts {
  NodeFacts node;
  std::optional<int> api_version;
  std::map<unsigned, int> capabilities;  // KVM_CAP_* to what it answered
  absl::Status vm;                       // KVM_CREATE_VM
};

struct LimitFacts {
  uint64_t nofile_soft = 0, nofile_hard = 0;  // UINT64_MAX: none
  uint64_t nproc_soft = 0;
  uint64_t memlock_soft = 0;
  std::optional<uint64_t> pids_max, pids_current;  // of the cgroup; nullopt: no limit or unknown
  std::optional<long> max_mem_regions, max_iotlb_entries;
};

struct IoUringFacts {
  int error = 0;                 // errno of io_uring_setup; 0: it works
  std::optional<long> disabled;  // kernel.io_uring_disabled, Linux 6.6
  std::optional<long> group;     // kernel.io_uring_group
};

// Who asks, and from where.
struct PlaceFacts {
  std::string release;  // "6.12.5-amd64"
  uid_t uid = 0;
  std::string user;
  std::vector<gid_t> groups;
  bool net_admin = false;  // effective capabilities
  bool seccomp_filter = false;
  bool first_user_namespace = true;
  std::optional<bool> network_namespace_is_inits;  // nullopt: may not be looked at
  std::string vsock_namespace_mode;                // Linux 7.0: "global", "local"; empty: none
  std::optional<uint32_t> local_cid;               // this machine is a guest
};

struct HostFacts {
  PlaceFacts place;
  VhostFacts net;
  VhostFacts vsock;
  std::optional<CidFacts> cid;  // if one was named
  TunFacts tun;
  std::vector<TapFacts> taps;
  KvmFacts kvm;
  LimitFacts limits;
  IoUringFacts io_uring;
};

// `cid`: whether that guest CID can be had.
HostFacts ProbeHost(kernel_abi::Kernel& kernel, std::optional<uint64_t> cid);

}  // namespace vhost::ctl

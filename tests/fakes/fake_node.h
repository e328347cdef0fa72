// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the kinds of node in the fake kernel have in common: an open file description with state
// behind it, which lives until its last file descriptor is closed, and the world that they share.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernel-abi/unique_fd.h"

namespace fakes {

// How the faked kernel is built, loaded and set up.
struct FakeKernelOptions {
  // Linux release, for what differs between 6.1, 6.12 and 7.x.
  int major = 6;
  int minor = 12;
  bool vhost_net = true;  // module loaded
  bool vhost_vsock = true;
  bool tun = true;
  bool kvm = true;
  // open() of a path answers this errno (EACCES, EBUSY ...), whatever is loaded.
  std::map<std::string, int> open_errors;
  unsigned max_mem_regions = 64;
  int max_iotlb_entries = 2048;
  // CONFIG_VHOST_ENABLE_FORK_OWNER_CONTROL, of kernels that know it.
  bool fork_owner_control = true;
  bool cross_endian = false;      // CONFIG_VHOST_CROSS_ENDIAN_LEGACY
  bool cap_net_admin = true;      // of the caller
  std::set<uint64_t> local_cids;  // CIDs of this machine itself, where it is a guest
  bool worker_can_start = true;   // false: VHOST_SET_OWNER answers ENOMEM
};

inline bool AtLeast(const FakeKernelOptions& options, int major, int minor) {
  return options.major > major || (options.major == major && options.minor >= minor);
}

// What survives at the moment. All zero is how every test should leave the fake.
struct OpenState {
  int vhost_nodes = 0;
  int tun_queues = 0;         // fds of /dev/net/tun, attached or not
  int kvm_nodes = 0;          // system, VM and vCPU fds
  int attached_backends = 0;  // vrings with a TAP, or a vsock device's that run
  int guest_cids = 0;
  int ioeventfds = 0;
  int irqfds = 0;
  int memory_slots = 0;
  int interfaces = 0;  // network interfaces that exist, persistent ones included
  int held_fds = 0;    // duplicates that the fake took of fds it was given

  friend bool operator==(const OpenState&, const OpenState&) = default;
  std::string Text() const;
};

class FakeNode {
 public:
  virtual ~FakeNode() = default;
  virtual int Ioctl(unsigned long request, uintptr_t argument) = 0;
  virtual ssize_t Read(void* buffer, size_t size, bool nonblocking);
  virtual ssize_t Write(const void* buffer, size_t size);
  // A node whose descriptor carries data itself: reads and writes are left to Linux.
  virtual bool carries_data() const { return false; }
  virtual int Mmap(size_t /*size*/) { return -19; }  // ENODEV
  virtual void Count(OpenState& state) const = 0;
};

// A network interface of the TUN driver.
struct FakeInterface {
  std::string name;
  unsigned flags = 0;  // IFF_*
  int vnet_header_bytes = 10;
  unsigned offloads = 0;
  int sndbuf = 0x7fffffff;
  bool little_endian = false;
  bool carrier = true;
  long owner = -1;
  long group = -1;
  uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 1};
  int queues = 0;  // attached
  int disabled_queues = 0;
  std::vector<std::array<uint8_t, 6>> filter;  // TUNSETTXFILTER; none: everything passes
  bool filter_all_multicast = false;
};

class FakeVhost;
class FakeTun;

// What nodes share: the registry of open descriptions, interfaces, CIDs. Implemented by FakeKernel.
class FakeWorld {
 public:
  virtual ~FakeWorld() = default;
  virtual const FakeKernelOptions& options() const = 0;
  // Makes an open file description with `node` behind it and returns its first fd, or minus errno.
  virtual int Install(std::unique_ptr<FakeNode> node) = 0;
  // The node behind `fd`, null if it is not one of ours.
  virtual FakeNode* Find(int fd) = 0;
  virtual std::map<std::string, FakeInterface>& interfaces() = 0;
  // Who has a CID.
  virtual std::map<uint64_t, FakeVhost*>& guest_cids() = 0;
};

// A reference to a file that was given to the fake by descriptor: a duplicate, so that what the
// fake keeps shows in /proc/self/fd, and keeps alive what Linux would keep alive.
kernel_abi::UniqueFd Hold(int fd);

// 0; -EBADF if `fd` is not open; -EINVAL if it is no eventfd.
int CheckEventFd(int fd);
bool IsSameEventFd(int a, int b);
// Adds one; reads and clears.
void Signal(int event_fd);
bool TakeSignal(int event_fd);

}  // namespace fakes

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A kernel for tests: keeps what Linux keeps of vhost, TAP and KVM, answers as Linux answers (the
// contract suite runs the same cases on this and on the real nodes), and fails the k-th call if
// told to.
//
//   FakeKernel kernel;                     // or with options: release, modules, limits
//   ... give `kernel` to the code under test ...
//   kernel.FailCall(7, EMFILE);            // the seventh call from now
//   EXPECT_EQ(kernel.Survivors(), OpenState{});  // nothing left open, attached, registered, held
//
// File descriptors are real: each open file description of a fake node is one end of a socket pair,
// so a leak shows in /proc/self/fd, dup(), fork() and SCM_RIGHTS work, and when the last copy is
// closed the fake sees the hang-up and releases what Linux would release then. It looks for
// hang-ups when it is next called, or in Survivors(). Fds that are handed to it (eventfds, TAPs) it
// duplicates, as Linux takes references. eventfds, memfds and mappings are Linux's own.
//
// Thread safety: as the system calls; every call takes one lock. The fake must outlive the fds that
// it gave out, or at least no request may be made of them afterwards.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "tests/fakes/call_log.h"
#include "tests/fakes/fake_kvm.h"
#include "tests/fakes/fake_node.h"
#include "tests/fakes/fake_tun.h"
#include "tests/fakes/fake_vhost.h"

namespace fakes {

class FakeKernel final : public kernel_abi::Kernel, private FakeWorld {
 public:
  explicit FakeKernel(FakeKernelOptions options = {});
  ~FakeKernel() override;

  // ---- kernel_abi::Kernel ----
  int Open(const char* path, int flags) override;
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override;
  int EventFd(unsigned initial, int flags) override;
  ssize_t Read(int fd, void* buffer, size_t size) override;
  ssize_t Write(int fd, const void* buffer, size_t size) override;
  int Duplicate(int fd) override;
  int MemFd(const char* name, unsigned flags) override;
  int Truncate(int fd, off_t size) override;
  int Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) override;
  int Unmap(void* address, size_t size) override;
  pid_t ThreadId() override;
  int SetAffinity(pid_t tid, const cpu_set_t& cpus) override;
  int SetNice(pid_t tid, int nice) override;

  // ---- Faults ----
  // The `k`-th call from now (1: the next) answers -`error` and has no effect. ThreadId and Unmap
  // do not count: they cannot fail. Replaces a fault that has not come yet.
  void FailCall(int k, int error);
  // The next ioctl of that name ("VHOST_SET_OWNER") fails, after `skip` that do not.
  void FailRequest(absl::string_view name, int error, int skip = 0);
  // True if the fault was met. A test that fails at step k for every k stops when it was not.
  bool FaultMet() const;
  // The call that met it, "" if none did.
  std::string FaultText() const;

  // ---- What was asked ----
  std::vector<LoggedCall> calls() const;
  void ClearCalls();
  // The log as text, a call a line.
  std::string CallText() const;

  // ---- What is left ----
  OpenState Survivors();

  // ---- The kernel's side of things. Pointers are good while the node is open. ----
  // Null if `fd` is no such node.
  FakeVhost* vhost(int fd);
  FakeTun* tun(int fd);
  FakeVm* vm(int fd);
  // Open nodes in the order of their opening.
  std::vector<FakeVhost*> vhosts();
  std::vector<FakeVm*> vms();
  // The other end of a TAP queue: read what was sent, write what is to be received. -1: no TAP.
  int wire_fd(int fd);
  // A persistent interface, as `ip tuntap add` makes it. Flags as TUNSETIFF takes them.
  void AddInterface(const std::string& name, unsigned flags);
  // `ip link del`: its queues are no longer attached to anything.
  void DeleteInterface(const std::string& name);
  // Null if there is none of that name.
  const FakeInterface* interface(const std::string& name);
  FakeKernelOptions& mutable_options() { return options_; }

 private:
  // An open file description: our end of the pair whose other end was handed out.
  struct Description {
    kernel_abi::UniqueFd far_end;
    std::unique_ptr<FakeNode> node;
    uint64_t serial;
  };

  // FakeWorld; called with mutex_ held.
  const FakeKernelOptions& options() const override { return options_; }
  int Install(std::unique_ptr<FakeNode> node) override;
  FakeNode* Find(int fd) override;
  std::map<std::string, FakeInterface>& interfaces() override { return interfaces_; }
  std::map<uint64_t, FakeVhost*>& guest_cids() override { return guest_cids_; }

  int OpenNode(const std::string& path, int flags) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops descriptions whose last fd was closed, and what hung on them, until nothing changes.
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts the call; the errno to fail with, or 0.
  int Fault(const LoggedCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  template <typename Result, typename Answer>
  Result Logged(LoggedCall call, Answer answer) ABSL_LOCKS_EXCLUDED(mutex_);
  template <typename FakeCall, typename LinuxCall>
  ssize_t Transfer(LoggedCall call, FakeCall in_fake, LinuxCall in_linux)
      ABSL_LOCKS_EXCLUDED(mutex_);
  template <typename Node>
  std::vector<Node*> InOrder() ABSL_LOCKS_EXCLUDED(mutex_);

  mutable absl::Mutex mutex_;
  FakeKernelOptions options_;
  std::map<std::string, FakeInterface> interfaces_;
  std::map<uint64_t, FakeVhost*> guest_cids_;
  std::map<ino_t, Description> descriptions_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_serial_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<LoggedCall> calls_ ABSL_GUARDED_BY(mutex_);

  struct PlannedFault {
    int countdown = 0;  // 0: none planned
    int error = 0;
    std::string request;  // empty: any call
  };
  PlannedFault planned_ ABSL_GUARDED_BY(mutex_);
  std::string fault_met_ ABSL_GUARDED_BY(mutex_);
};

// Fds of this process, by /proc/self/fd (without the one that reads it).
int CountOpenFds();

}  // namespace fakes

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"

namespace kernel_abi {

// An owned eventfd, always non-blocking. Copies of its fd may be held by vhost, by KVM and by
// other processes; whoever holds one may signal or drain it.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create(Kernel& kernel);
  // Takes an eventfd made elsewhere. The fd is used as it is, blocking or not.
  EventFd(Kernel& kernel, UniqueFd fd) : kernel_(&kernel), fd_(std::move(fd)) {}

  int get() const { return fd_.get(); }
  void Signal() const { SignalEventFd(*kernel_, fd_.get()); }
  bool IsSignalled() const;
  // Resets the counter. True if it was not zero. Never blocks.
  bool Drain() const;

  // The same for an eventfd that belongs to somebody else. Signal adds one; a counter that is full
  // (2^64 - 2) is as signalled as it can be, so EAGAIN is success.
  static void SignalEventFd(Kernel& kernel, int fd);
  // Asks poll(2) first, so that a blocking eventfd does not block either.
  static bool DrainEventFd(Kernel& kernel, int fd);
  static bool IsEventFdSignalled(int fd);
  // All of these: one poll(2) finds those that are signalled, as a rule none.
  static void DrainEventFds(Kernel& kernel, std::span<const int> fds);

 private:
  Kernel* kernel_;
  UniqueFd fd_;
  bool never_blocks_ = false;
};

}  // namespace kernel_abi

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// ioeventfds and irqfds as objects that take themselves back. What is handed to KVM_IOEVENTFD or
// KVM_IRQFD to take one back must be what was handed to make it, the eventfd included, so each
// keeps its request; the eventfd is lent for its life.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/transport/wiring.h"

namespace vhost::kvm {

// The VM that registrations are made with. Outlives them.
struct Vm {
  kernel_abi::Kernel& kernel;
  const int fd;  // lent
  // Set when the VM's fd is about to be closed for good, which undoes everything at once: taking
  // back an ioeventfd by itself waits for a grace period each (8 ms natively), one after the other.
  std::atomic<bool> closing = false;
};

// ALREADY_EXISTS: writes that match are taken by another one. INVALID_ARGUMENT: length 0 at a port
// or with a datamatch.
absl::StatusOr<std::unique_ptr<Registration>> MakeIoEventFd(Vm& vm, const NotifyAddress& address,
                                                            int event_fd);

// The GSI has its route already: a signal that finds none is lost. A count that is pending in the
// eventfd is injected at once. When the registration goes, what was signalled before has been
// injected, and what is signalled later stays in the eventfd.
// EAGAIN (GetErrno): no interrupt controller in the kernel. EBUSY: the eventfd has an irqfd.
absl::StatusOr<std::unique_ptr<Registration>> MakeIrqFd(Vm& vm, uint32_t gsi, int event_fd);

}  // namespace vhost::kvm

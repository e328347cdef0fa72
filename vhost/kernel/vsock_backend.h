// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Socket queues served by the host kernel: one node of /dev/vhost-vsock, virtqueues 0 (receive) and
// 1 (transmit). The event queue is not the kernel's. Both queues start and stop together; where one
// is stopped by itself (a queue reset) the other waits for it.
//
// The guest's CID is taken when the backend is made and kept until it goes, through stops, starts
// and resets, and connections live through them. What host processes send while it is stopped waits
// for the start in kernels up to 6.12; Linux 7 answers EHOSTUNREACH to them until it is running.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "vhost/kernel/kernel_backend.h"

namespace vhost {

// CIDs that a guest can have: 0 to 2 are the hypervisor's, the loopback's and the host's, and the
// highest of 32 bits means any.
inline constexpr uint64_t kFirstGuestCid = 3;
inline constexpr uint64_t kLastGuestCid = 0xfffffffe;

struct VsockBackendOptions {
  std::string node = kernel_abi::kVhostVsockPath;
  // Instead of opening `node`: an fd of it. The CID that it may have been given is not to be asked
  // of the kernel: say it in `cid` (it is set again, which does no harm), or get another.
  kernel_abi::UniqueFd vhost_fd;
  // Without: the first of the range below that no other guest has.
  std::optional<uint64_t> cid;
  uint64_t first_cid = kFirstGuestCid;
  uint64_t last_cid = kLastGuestCid;
  uint32_t busyloop_us = 0;
  WorkerPlacement worker;
  // Shared by all vhost devices of a VMM; without, the device makes its own.
  std::shared_ptr<const HostFacts> host;
  std::optional<kernel_abi::ForkMode> fork_mode;  // Linux 6.17
};

class VsockBackend final : public KernelBackend {
 public:
  // The errno behind the error is EADDRINUSE if another guest has the CID.
  static absl::StatusOr<std::unique_ptr<VsockBackend>> Create(kernel_abi::Kernel& kernel,
                                                              VsockBackendOptions options);
  ~VsockBackend() override;

  uint64_t guest_cid() const { return guest_cid_; }
  bool holds_connections() const override { return true; }

 protected:
  absl::StatusOr<VhostFeatures> PrepareNode(size_t, VirtioFeatures) override {
    return VhostFeatures();
  }

 private:
  VsockBackend(kernel_abi::Kernel& kernel, const VsockBackendOptions& options)
      : KernelBackend(kernel, DeviceId::kVsock, kernel_abi::kVhostVringsPerFd, options.busyloop_us,
                      HostFactsFor(kernel, options.host)) {}

  uint64_t guest_cid_ = 0;
};

}  // namespace vhost

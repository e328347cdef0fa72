// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Network queues served by the host kernel: each queue pair is a node of /dev/vhost-net, attached
// to one queue of a TAP. Virtqueues 2p (receive) and 2p + 1 (transmit) are of pair p. The control
// queue is not the kernel's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "vhost/kernel/kernel_backend.h"

namespace vhost {

struct NetBackendOptions {
  std::string node = kernel_abi::kVhostNetPath;
  // Instead of opening `node`: an fd of it for each queue pair.
  std::vector<kernel_abi::UniqueFd> vhost_fds;
  // A queue of the TAP for each queue pair, lent for the life of the backend. At a start the
  // TAP's header must have the size that the features acked want (header_bytes below); of its other
  // settings (offloads, sndbuf) the backend takes no notice.
  std::vector<int> tap_fds;
  // The queues are those of a Tap (vhost/host/tap.h) behind a NetDevice, which sees to the header.
  // Others are asked what they are, as the kernel takes a wrong one and drops every packet.
  bool taps_are_checked = false;
  // How long the worker polls before it sleeps, in microseconds; 0: not at all.
  uint32_t busyloop_us = 0;
  WorkerPlacement worker;
  // Shared by all vhost devices of a VMM; without, the device makes its own.
  std::shared_ptr<const HostFacts> host;
  std::optional<kernel_abi::ForkMode> fork_mode;  // Linux 6.17
  bool wide_features = false;                     // UDP tunnel offloads; Linux 6.17
};

class NetBackend final : public KernelBackend {
 public:
  // Opens a node for each TAP queue, and makes this process their owner. Nothing of a guest is
  // needed yet, so that what the machine cannot do is known before one runs.
  static absl::StatusOr<std::unique_ptr<NetBackend>> Create(kernel_abi::Kernel& kernel,
                                                            NetBackendOptions options);
  ~NetBackend() override;

  // The size of virtio's packet header with these features: what the TAP must be set to.
  static int HeaderBytes(VirtioFeatures acked);

 protected:
  absl::StatusOr<VhostFeatures> PrepareNode(size_t node, VirtioFeatures acked) override;

 private:
  // What a TAP's fd is, which does not change while it is open.
  struct TapFacts {
    std::string name;
    bool has_header = false;
    // The features with which its header was last found right. It is the device's to change, which
    // does so for other features only.
    std::optional<VirtioFeatures> right_for{};
  };

  NetBackend(kernel_abi::Kernel& kernel, NetBackendOptions& options)
      : KernelBackend(kernel, DeviceId::kNet, kernel_abi::kVhostVringsPerFd, options.busyloop_us,
                      HostFactsFor(kernel, options.host)),
        tap_fds_(std::move(options.tap_fds)),
        taps_are_checked_(options.taps_are_checked),
        taps_(tap_fds_.size()) {}
  absl::StatusOr<TapFacts> ReadTap(size_t node) const;

  std::vector<int> tap_fds_;
  bool taps_are_checked_;
  std::vector<std::optional<TapFacts>> taps_;  // once read
  bool vhost_can_add_header_ = false;
};

}  // namespace vhost

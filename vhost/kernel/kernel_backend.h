// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A Backend made of vhost nodes of the host kernel: one node for each queue pair of a net device,
// one for a whole vsock device. Virtqueue q is vring q % n of node q / n, with n vrings a node.
// What is particular to a kind of device is in the classes derived from it (net_backend.h,
// vsock_backend.h): how its nodes are made, the attachment, and what it checks before a start. The
// order of the requests is VhostDevice's; here is only that all nodes start and stop as one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "vhost/backend.h"
#include "vhost/features.h"
#include "vhost/kernel/host_facts.h"
#include "vhost/kernel/vhost_device.h"
#include "vhost/kernel/vhost_ops.h"
#include "vhost/kernel/worker.h"

namespace vhost {

// How the node of a vhost device is had, and what its worker is like: the same for all kinds.
struct KernelNodeOptions {
  std::string path;
  // Instead of opening `path`: an fd of such a node. It may have an owner already, which must be
  // this process (no fork or exec since), and then has its worker, wherever that is.
  kernel_abi::UniqueFd fd;
  WorkerPlacement worker;
  // How the worker is made; without, as the kernel has it. Linux 6.17.
  std::optional<kernel_abi::ForkMode> fork_mode;
  // Asks for features beyond the 64th too (UDP tunnel offloads); one request more. Linux 6.17.
  bool wide_features = false;
};

// A node that is open, owned by this process, and has its worker.
struct KernelNode {
  static absl::StatusOr<KernelNode> Create(kernel_abi::Kernel& kernel, const HostFacts& host,
                                           KernelNodeOptions options);

  std::unique_ptr<KernelVhostOps> ops;
  VhostFeatures offered;
  Worker worker;
};

class KernelBackend : public Backend {
 public:
  ~KernelBackend() override;

  BackendKind kind() const override { return BackendKind::kKernel; }
  VirtioFeatures Supported(VirtioFeatures wanted) const override;
  absl::Status CheckMemory(const MemoryTable& memory) const override;
  absl::Status Prepare(const BackendStart& start) override;
  absl::Status Start(const BackendStart& start) override;
  std::vector<StoppedVring> Stop() override;
  // Leaves the eventfds with vhost for now: to take one back waits for the worker. It is woken by
  // kicks meanwhile, and finds nothing to serve.
  std::vector<StoppedVring> BeginStop() override;
  void FinishStop() override;
  absl::Status StartVring(const BackendVring& vring) override;
  absl::StatusOr<VringBase> StopVring(int queue) override;
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) override;
  absl::Status SetCall(int queue, int call_fd) override;
  int error_fd(int queue) const override;
  void CountError(int queue) override;
  BackendReport Report() const override;
  std::vector<kernel_abi::UniqueFd> ReleaseFds() override;

  const MemoryLimits& memory_limits() const { return host_->memory_limits(); }
  int queue_count() const { return static_cast<int>(units_.size() * vrings_per_node_); }

 protected:
  KernelBackend(kernel_abi::Kernel& kernel, DeviceId id, uint32_t vrings_per_node,
                uint32_t busyloop_us, std::shared_ptr<const HostFacts> host)
      : kernel_(&kernel),
        id_(id),
        vrings_per_node_(vrings_per_node),
        busyloop_us_(busyloop_us),
        host_(std::move(host)) {}

  static std::shared_ptr<const HostFacts> HostFactsFor(kernel_abi::Kernel& kernel,
                                                       std::shared_ptr<const HostFacts> given) {
    return given != nullptr ? std::move(given) : std::make_shared<const HostFacts>(kernel);
  }

  kernel_abi::Kernel& kernel() const { return *kernel_; }
  const HostFacts& host() const { return *host_; }
  // Adds the next node; `attachment` may refer to the ops in it, which do not move.
  absl::Status AddNode(KernelNode node, std::unique_ptr<VringAttachment> attachment);

  // What a kind of device has to say to a start: whether node `node` can go with these features,
  // and which bits of vhost's own it needs. Called before the node's first vring is set up.
  virtual absl::StatusOr<VhostFeatures> PrepareNode(size_t node, VirtioFeatures acked) = 0;

 private:
  struct Unit {
    KernelNode node;
    std::unique_ptr<VringAttachment> attachment;
    std::unique_ptr<VhostDevice> device;
  };
  struct Running {
    VirtioFeatures acked;
    std::shared_ptr<const MemoryTable> memory;
  };

  absl::Status CheckQueue(int queue) const;
  absl::Status CheckStart(const BackendStart& start) const;
  size_t NodeOf(int queue) const { return static_cast<size_t>(queue) / vrings_per_node_; }
  uint32_t IndexOf(int queue) const { return static_cast<uint32_t>(queue) % vrings_per_node_; }
  int QueueOf(size_t node, uint32_t index) const {
    return static_cast<int>(node * vrings_per_node_ + index);
  }
  VhostVring ForNode(const BackendVring& vring) const {
    return {.index = IndexOf(vring.queue),
            .vring = vring.vring,
            .base = vring.base,
            .kick_fd = vring.kick_fd,
            .call_fd = vring.call_fd};
  }
  // Sets up those of `vrings` that are of node `node`.
  absl::Status PrepareVrings(size_t node, const Running& with,
                             std::span<const BackendVring> vrings);
  using VringList = absl::InlinedVector<VhostVring, 2>;

  kernel_abi::Kernel* kernel_;
  DeviceId id_;
  uint32_t vrings_per_node_;
  uint32_t busyloop_us_;
  std::shared_ptr<const HostFacts> host_;
  std::vector<Unit> units_;
  std::optional<Running> running_;
};

}  // namespace vhost

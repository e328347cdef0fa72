// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/kernel_backend.h"

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

// Makes this process the owner, or finds that it is.
absl::StatusOr<Worker> Own(kernel_abi::Kernel& kernel, const HostFacts& host, KernelVhostOps& ops,
                           const KernelNodeOptions& options, bool handed_in) {
  absl::StatusOr<Worker> worker =
      Worker::Start(kernel, host.tids(), options.worker, [&ops] { return ops.SetOwner(); });
  if (worker.ok() || !handed_in || kernel_abi::GetErrno(worker.status()) != EBUSY) return worker;
  if (!ops.IsOwner()) {
    return kernel_abi::AddAdvice(worker.status(),
                                 "it is another process (or this one before a fork or exec): hand "
                                 "the fd in before VHOST_SET_OWNER");
  }
  if (!options.worker.empty()) {
    return kernel_abi::AddAdvice(worker.status(),
                                 "its worker runs already and cannot be placed any more");
  }
  return Worker("the fd was handed in with its worker running");
}

}  // namespace

absl::StatusOr<KernelNode> KernelNode::Create(kernel_abi::Kernel& kernel, const HostFacts& host,
                                              KernelNodeOptions options) {
  const bool handed_in = options.fd.valid();
  std::unique_ptr<KernelVhostOps> ops;
  if (handed_in) {
    ops = std::make_unique<KernelVhostOps>(kernel, std::move(options.fd),
                                           absl::StrCat(options.path, " (fd handed in)"));
  } else {
    absl::StatusOr<KernelVhostOps> opened = KernelVhostOps::Open(kernel, options.path);
    if (!opened.ok()) return opened.status();
    ops = std::make_unique<KernelVhostOps>(*std::move(opened));
  }
  ops->set_wide_features(options.wide_features);
  absl::StatusOr<VhostFeatures> offered = ops->GetFeatures();
  if (!offered.ok()) {
    return handed_in ? kernel_abi::AddAdvice(offered.status(), "is it a vhost node's fd?")
                     : offered.status();
  }
  if (options.fork_mode.has_value()) {
    if (absl::Status status = ops->SetForkMode(*options.fork_mode); !status.ok()) return status;
  }
  absl::StatusOr<Worker> worker = Own(kernel, host, *ops, options, handed_in);
  if (!worker.ok()) return worker.status();
  return KernelNode{std::move(ops), *offered, *std::move(worker)};
}

KernelBackend::~KernelBackend() {
  Stop();
  // The kernel waits for a grace period at each close, which several share.
  kernel_abi::CloseInParallel(ReleaseFds());
}

absl::Status KernelBackend::AddNode(KernelNode node, std::unique_ptr<VringAttachment> attachment) {
  absl::StatusOr<std::unique_ptr<VhostDevice>> device =
      VhostDevice::Create(*kernel_, *node.ops, *attachment, vrings_per_node_, busyloop_us_);
  if (!device.ok()) return device.status();
  units_.push_back({std::move(node), std::move(attachment), *std::move(device)});
  return absl::OkStatus();
}

VirtioFeatures KernelBackend::Supported(VirtioFeatures wanted) const {
  for (const Unit& unit : units_) wanted = FromVhost(id_, unit.node.offered, wanted);
  return wanted;
}

absl::Status KernelBackend::CheckMemory(const MemoryTable& memory) const {
  // One region is taken by every module.
  if (memory.merged().size() <= 1) return absl::OkStatus();
  return memory_limits().Check(memory);
}

absl::Status KernelBackend::CheckQueue(int queue) const {
  if (queue >= 0 && queue < queue_count()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the kernel serves queues 0 to ", queue_count() - 1, " of this device, not ", queue));
}

absl::Status KernelBackend::PrepareVrings(size_t node, const Running& with,
                                          std::span<const BackendVring> vrings) {
  VringList mine;
  for (const BackendVring& vring : vrings) {
    if (NodeOf(vring.queue) != node) continue;
    mine.push_back(ForNode(vring));
  }
  if (mine.empty()) return absl::OkStatus();
  Unit& unit = units_[node];
  const absl::StatusOr<VhostFeatures> own = PrepareNode(node, with.acked);
  if (!own.ok()) return own.status();
  return unit.device->Prepare(ToVhost(id_, with.acked, unit.node.offered) | *own, with.memory,
                              mine);
}

absl::Status KernelBackend::CheckStart(const BackendStart& start) const {
  if (running_.has_value()) {
    return absl::FailedPreconditionError("the kernel backend is running already");
  }
  if (const VirtioFeatures cannot = start.acked - Supported(start.acked); !cannot.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("vhost does not offer what the driver acked: ",
                                                   absl::StrJoin(FeatureNames(id_, cannot), " ")));
  }
  if (absl::Status status = CheckMemory(*start.memory); !status.ok()) return status;
  for (const BackendVring& vring : start.vrings) {
    if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status KernelBackend::Prepare(const BackendStart& start) {
  if (absl::Status status = CheckStart(start); !status.ok()) return status;
  FinishStop();
  for (const BackendVring& vring : start.vrings) {
    const size_t node = NodeOf(vring.queue);
    const absl::StatusOr<VhostFeatures> own = PrepareNode(node, start.acked);
    if (!own.ok()) return own.status();
    // The start will find that the kernel has been told.
    Unit& unit = units_[node];
    const VhostVring mine = ForNode(vring);
    absl::Status status = unit.device->Announce(ToVhost(id_, start.acked, unit.node.offered) | *own,
                                                start.memory, {&mine, 1});
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status KernelBackend::Start(const BackendStart& start) {
  if (absl::Status status = CheckStart(start); !status.ok()) return status;
  FinishStop();
  Running running{.acked = start.acked, .memory = start.memory};
  absl::Cleanup undo = [this] {
    for (Unit& unit : units_) unit.device->Stop();
  };
  for (size_t node = 0; node < units_.size(); ++node) {
    if (absl::Status status = PrepareVrings(node, running, start.vrings); !status.ok()) {
      return status;
    }
  }
  // Only now may a ring be touched: all that is likely to fail has not.
  for (Unit& unit : units_) {
    if (absl::Status status = unit.device->Attach(); !status.ok()) return status;
  }
  std::move(undo).Cancel();
  running_ = std::move(running);
  return absl::OkStatus();
}

std::vector<StoppedVring> KernelBackend::BeginStop() {
  std::vector<StoppedVring> stopped;
  stopped.reserve(static_cast<size_t>(queue_count()));
  for (size_t node = 0; node < units_.size(); ++node) {
    for (const StoppedVhostVring& vring : units_[node].device->Suspend()) {
      stopped.push_back({QueueOf(node, vring.index), vring.base});
    }
  }
  running_.reset();
  return stopped;
}

void KernelBackend::FinishStop() {
  if (running_.has_value()) return;
  for (Unit& unit : units_) unit.device->TakeDownAll();
}

std::vector<StoppedVring> KernelBackend::Stop() {
  std::vector<StoppedVring> stopped;
  if (running_.has_value()) stopped = BeginStop();
  FinishStop();
  return stopped;
}

absl::Status KernelBackend::StartVring(const BackendVring& vring) {
  if (!running_.has_value()) {
    return absl::FailedPreconditionError("the kernel backend is not running");
  }
  if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  const size_t node = NodeOf(vring.queue);
  if (absl::Status status = PrepareVrings(node, *running_, {&vring, 1}); !status.ok()) {
    return status;
  }
  absl::Status status = units_[node].device->Attach();
  if (!status.ok()) units_[node].device->StopVring(IndexOf(vring.queue)).status().IgnoreError();
  return status;
}

absl::StatusOr<VringBase> KernelBackend::StopVring(int queue) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  return units_[NodeOf(queue)].device->StopVring(IndexOf(queue));
}

absl::Status KernelBackend::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  if (absl::Status status = CheckMemory(*memory); !status.ok()) return status;
  if (!running_.has_value()) return absl::OkStatus();  // The next start brings its table.
  for (size_t node = 0; node < units_.size(); ++node) {
    absl::Status status = units_[node].device->SetMemory(memory);
    if (status.ok()) continue;
    for (size_t back = node; back-- > 0;) {
      const absl::Status undo = units_[back].device->SetMemory(running_->memory);
      if (!undo.ok()) {
        status = kernel_abi::AddAdvice(
            status, absl::StrCat("and going back to the old table failed: ", undo.message()));
      }
    }
    return status;
  }
  running_->memory = memory;
  return absl::OkStatus();
}

absl::Status KernelBackend::SetCall(int queue, int call_fd) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  return units_[NodeOf(queue)].device->SetCall(IndexOf(queue), call_fd);
}

int KernelBackend::error_fd(int queue) const {
  return CheckQueue(queue).ok() ? units_[NodeOf(queue)].device->error_fd(IndexOf(queue)) : -1;
}

void KernelBackend::CountError(int queue) {
  if (CheckQueue(queue).ok()) units_[NodeOf(queue)].device->CountError(IndexOf(queue));
}

BackendReport KernelBackend::Report() const {
  BackendReport report{.kind = BackendKind::kKernel,
                       .running = running_.has_value(),
                       .max_memory_regions = memory_limits().max_regions};
  for (size_t node = 0; node < units_.size(); ++node) {
    const Unit& unit = units_[node];
    if (node == 0) {
      report.node = unit.node.ops->name();
      report.vhost_offered = unit.node.offered;
      report.vhost_acked = unit.device->features();
    }
    report.memory_updates += unit.device->memory_updates();
    WorkerReport worker = unit.node.worker.Report();
    for (uint32_t index = 0; index < vrings_per_node_; ++index) {
      BackendVringReport vring = unit.device->Report(index);
      vring.queue = QueueOf(node, index);
      vring.vhost_fd = unit.node.ops->fd();
      worker.queues.push_back(vring.queue);
      report.vrings.push_back(vring);
    }
    report.workers.push_back(std::move(worker));
  }
  return report;
}

std::vector<kernel_abi::UniqueFd> KernelBackend::ReleaseFds() {
  std::vector<kernel_abi::UniqueFd> fds;
  for (Unit& unit : units_) {
    kernel_abi::UniqueFd fd = unit.node.ops->ReleaseFd();
    if (fd.valid()) fds.push_back(std::move(fd));
  }
  return fds;
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vhost::user {

UserBackend::UserBackend(std::shared_ptr<Peer> peer) : peer_(std::move(peer)) {
  slots_.resize(static_cast<size_t>(peer_->options().queues));
}

UserBackend::~UserBackend() { Stop(); }

VirtioFeatures UserBackend::Supported(VirtioFeatures wanted) const {
  return peer_->Supported(wanted);
}

absl::Status UserBackend::CheckMemory(const MemoryTable& memory) const {
  return peer_->CheckMemory(memory);
}

absl::Status UserBackend::CheckVring(const BackendVring& vring) const {
  if (!Has(vring.queue)) {
    return absl::InvalidArgumentError(absl::StrCat("the back end serves queues 0 to ",
                                                   slots_.size() - 1, " of this device, not ",
                                                   vring.queue));
  }
  if (vring.kick_fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("queue ", vring.queue, " has no kick eventfd"));
  }
  return absl::OkStatus();
}

absl::Status UserBackend::Start(const BackendStart& start) {
  if (running_) return absl::FailedPreconditionError("the vhost-user backend is running already");
  if (const VirtioFeatures cannot = start.acked - Supported(start.acked); !cannot.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the back end does not offer what the driver acked: ",
                     absl::StrJoin(FeatureNames(peer_->options().id, cannot), " ")));
  }
  if (absl::Status status = CheckMemory(*start.memory); !status.ok()) return status;
  for (const BackendVring& vring : start.vrings) {
    if (absl::Status status = CheckVring(vring); !status.ok()) return status;
  }
  for (const BackendVring& vring : start.vrings) {
    slots_[static_cast<size_t>(vring.queue)].vring = vring;
  }
  running_ = true;
  acked_ = start.acked;
  peer_->Start(start);
  return absl::OkStatus();
}

std::vector<StoppedVring> UserBackend::Stop() {
  if (!running_) return {};
  running_ = false;
  for (Slot& slot : slots_) slot.vring.reset();
  return peer_->Stop();
}

absl::Status UserBackend::StartVring(const BackendVring& vring) {
  if (!running_) return absl::FailedPreconditionError("the vhost-user backend is not running");
  if (absl::Status status = CheckVring(vring); !status.ok()) return status;
  Slot& slot = slots_[static_cast<size_t>(vring.queue)];
  if (slot.vring.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("queue ", vring.queue, " is in use already"));
  }
  slot.vring = vring;
  peer_->StartVring(vring);
  return absl::OkStatus();
}

absl::StatusOr<VringBase> UserBackend::StopVring(int queue) {
  if (!Has(queue) || !slots_[static_cast<size_t>(queue)].vring.has_value()) {
    return absl::NotFoundError(absl::StrCat("queue ", queue, " is not in use"));
  }
  slots_[static_cast<size_t>(queue)].vring.reset();
  return peer_->StopVring(queue);
}

absl::Status UserBackend::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  if (absl::Status status = CheckMemory(*memory); !status.ok()) return status;
  return running_ ? peer_->SetMemory(memory) : absl::OkStatus();
}

absl::Status UserBackend::SetCall(int queue, int call_fd) {
  if (!Has(queue)) return absl::InvalidArgumentError(absl::StrCat("there is no queue ", queue));
  std::optional<BackendVring>& vring = slots_[static_cast<size_t>(queue)].vring;
  if (!vring.has_value()) return absl::OkStatus();  // It is given one when it is started.
  absl::Status status = peer_->SetCall(queue, call_fd);
  if (status.ok()) vring->call_fd = call_fd;
  return status;
}

int UserBackend::error_fd(int queue) const { return Has(queue) ? peer_->error_fd(queue) : -1; }

void UserBackend::CountError(int queue) {
  if (Has(queue)) ++slots_[static_cast<size_t>(queue)].errors;
}

BackendReport UserBackend::Report() const {
  const Peer::Report peer = peer_->report();
  BackendReport report{.kind = BackendKind::kVhostUser,
                       .node = peer_->options().socket,
                       .running = running_,
                       .vhost_offered = peer.offered,
                       .memory_updates = peer.memory_updates,
                       .max_memory_regions = std::max(peer.max_regions, kTableRegions)};
  if (peer.connected) {
    if (peer.pid.has_value()) absl::StrAppend(&report.node, " (process ", *peer.pid, ")");
  } else {
    absl::StrAppend(&report.node, " (away: ", peer.why_not, ")");
  }
  if (running_) {
    report.vhost_acked = VhostFeatures::FromWords(acked_.low() & peer.offered.low());
  }
  for (size_t queue = 0; queue < slots_.size(); ++queue) {
    const Slot& slot = slots_[queue];
    BackendVringReport vring{.queue = static_cast<int>(queue),
                             .vhost_index = static_cast<uint32_t>(queue),
                             .err_fd = peer_->error_fd(static_cast<int>(queue)),
                             .errors = slot.errors};
    if (slot.vring.has_value()) {
      vring.kick_fd = slot.vring->kick_fd;
      vring.call_fd = slot.vring->call_fd;
      if (!peer.connected) vring.problem = "the back end is away: what is in the ring waits";
    }
    report.vrings.push_back(std::move(vring));
  }
  return report;
}

}  // namespace vhost::user

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VirtioDevice: who serves its vrings while the driver runs. Starts, moves, pauses, and changes of
// memory.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/virtio_device_lock.h"

namespace vhost {

// ---- Starts ------------------------------------------------------------------------------------

absl::Status VirtioDevice::StartQueues() {
  absl::Status status = queues_->Start(acked_, memory_, resume_on_);
  if (!status.ok()) return status;
  const BackendKind serves = backends_.running()->kind();
  const bool is_wanted =
      std::exchange(resume_on_, std::nullopt) == serves || backends_.asked() == serves;
  ++starts_;
  const std::vector<RefusalReport> refusals = backends_.refusals();
  std::string text = absl::StrCat("by the ", Name(serves), " backend");
  for (const RefusalReport& refusal : refusals) {
    absl::StrAppend(&text, "; not ", Name(refusal.kind), ": ", refusal.reason);
  }
  journal_.Note(is_wanted || refusals.empty() ? EventKind::kStarted : EventKind::kFallback,
                std::move(text));
  NoteServer();
  return absl::OkStatus();
}

void VirtioDevice::NoteServer() {
  const BackendKind now = backends_.running()->kind();
  const std::optional<BackendKind> before = std::exchange(served_by_, now);
  if (before.has_value() && *before != now) model_->BackendChanged(*before, now);
  if (stalls_.has_value()) stalls_->Forget();
  backends_.CloseLeft();
}

// ---- Moves -------------------------------------------------------------------------------------

absl::StatusOr<HandoverReport> VirtioDevice::Move(BackendKind to, HandoverCause cause,
                                                  const std::string& why,
                                                  std::shared_ptr<const MemoryTable> memory) {
  HandoverReport report{
      .from = backends_.running()->kind(), .to = to, .cause = cause, .reason = why};
  BackendSelector::Moved moved;
  const absl::StatusOr<Backend*> target = backends_.Find(to);
  moved.status = target.status();
  if (moved.status.ok()) moved.status = WatchErrors();
  if (moved.status.ok()) moved = queues_->MoveTo(**target, std::move(memory), why);
  report.stopped_us = moved.stopped_us;
  if (!moved.status.ok()) report.problem = std::string(moved.status.message());
  journal_.NoteHandover(report);
  // The one that serves may have been made anew on the way.
  if (absl::Status status = WatchErrors(); !status.ok()) {
    journal_.Note(EventKind::kRingError, absl::StrCat("errors of rings will not be noticed: ",
                                                      std::string(status.message())));
  }
  if (moved.nobody_runs) Break(moved.status);
  if (backends_.running() != nullptr) NoteServer();
  if (!moved.status.ok()) return moved.status;
  return report;
}

absl::StatusOr<HandoverReport> VirtioDevice::Handover(BackendKind to, absl::string_view reason) {
  Lock lock(*this);
  const std::string why(reason.empty() ? "asked for" : reason);
  const Backend* running = backends_.running();
  HandoverReport report{.from = running != nullptr ? running->kind() : backends_.current().kind(),
                        .to = to,
                        .cause = HandoverCause::kRequest,
                        .reason = why};
  if (running != nullptr && running->kind() != to) {
    absl::StatusOr<HandoverReport> moved = Move(to, HandoverCause::kRequest, why, nullptr);
    if (!moved.ok()) return kernel_abi::AddContext(moved.status(), name_);
    report = *std::move(moved);
  }
  // Also for the starts to come.
  absl::Status status = backends_.Ask(to, absl::StrCat("moved to ", Name(to), ": ", why));
  if (status.ok()) status = WatchErrors();
  if (!status.ok()) return kernel_abi::AddContext(status, name_);
  if (running == nullptr) resume_on_.reset();
  return report;
}

bool VirtioDevice::Failover(const std::string& why) {
  const Backend* running = backends_.running();
  const std::optional<BackendKind> other = backends_.Other();
  // This process is the last resort: what fails here fails for good.
  if (!failover_.enabled || running == nullptr || !other.has_value() ||
      running->kind() == BackendKind::kInProcess) {
    return false;
  }
  const BackendKind from = running->kind();
  const absl::Status moved = Move(*other, HandoverCause::kFailover, why, nullptr).status();
  if (!moved.ok()) return HasStatus(device_status::kNeedsReset);
  backends_.Bar(from, why, BackendSelector::Clock::now() + std::chrono::milliseconds(back_off_ms_));
  back_off_ms_ = std::min(2 * back_off_ms_, failover_.max_back_off_ms);
  return true;
}

// ---- Pauses ------------------------------------------------------------------------------------

void VirtioDevice::Pause(absl::string_view reason) {
  Lock lock(*this);
  if (std::exchange(paused_, true)) return;
  if (backends_.running() != nullptr) resume_on_ = backends_.running()->kind();
  paused_at_ = queues_->Stop();
  journal_.Note(EventKind::kPaused, std::string(reason));
}

absl::Status VirtioDevice::Resume() {
  Lock lock(*this);
  if (!paused_) return absl::OkStatus();
  if (IsReady()) {
    if (absl::Status status = StartQueues(); !status.ok()) {
      return kernel_abi::AddContext(status, name_);
    }
  }
  paused_ = false;
  paused_at_.clear();
  journal_.Note(EventKind::kResumed, "");
  return absl::OkStatus();
}

// ---- Memory ------------------------------------------------------------------------------------

absl::Status VirtioDevice::CheckMemory(const MemoryTable& table) const {
  absl::MutexLock lock(&mutex_);
  absl::Status status = backends_.CheckMemory(table);
  // Here, before anybody has changed: a vCPU must not lose memory for a moment to a change that a
  // device then refuses.
  if (status.ok()) status = queues_->CheckMemory(table);
  return kernel_abi::AddContext(status, name_);
}

absl::Status VirtioDevice::SetMemory(const std::shared_ptr<const MemoryTable>& table) {
  Lock lock(*this);
  bool refused = false;
  absl::Status status = queues_->SetMemory(table, &refused);
  const std::optional<BackendKind> other = backends_.Other();
  if (refused && other.has_value()) {
    const std::string why(status.message());
    status = Move(*other, HandoverCause::kMemory, why, table).status();
  }
  if (!status.ok()) return kernel_abi::AddContext(status, name_);
  memory_ = table;
  return absl::OkStatus();
}

}  // namespace vhost

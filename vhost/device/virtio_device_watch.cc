// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VirtioDevice: what happens to it that neither its driver nor its backend tells: queues that stand
// still, and changes on the host's side.
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/virtio_device_lock.h"

namespace vhost {

void VirtioDevice::CheckProgress(StallDetector::Clock::time_point now) {
  Lock lock(*this);
  if (!stalls_.has_value()) return;
  if (backends_.running() == nullptr) {
    stalls_->Forget();
    return;
  }
  // What our own threads do is not asked for: nothing would be done about it.
  const bool is_ours = backends_.running()->kind() == BackendKind::kInProcess;
  ActOnStall(stalls_->Look(now, queues_->Progress(), [&] {
    return is_ours ? std::vector<WorkerReport>() : backends_.running()->Report().workers;
  }));
}

void VirtioDevice::ActOnStall(const StallDetector::Verdict& verdict) {
  const Backend& backend = *backends_.running();
  const bool is_ours = backend.kind() == BackendKind::kInProcess;
  for (const int queue : verdict.kick) queues_->KickAgain(queue);
  for (const int queue : verdict.recovered) {
    journal_.Note(EventKind::kStallOver, queues_->Label(queue), queue);
  }
  for (const int queue : verdict.stalled) {
    journal_.Note(
        EventKind::kStall,
        absl::StrCat(queues_->Label(queue), ": the ", Name(backend.kind()),
                     " backend has not got on with it, though there is work and it was kicked"),
        queue);
  }
  if (verdict.spinning.has_value() && !is_ours) {
    const int queue = *verdict.spinning;
    const std::string why =
        absl::StrCat(queues_->Label(queue), ": the worker of the ", Name(backend.kind()),
                     " backend uses its CPU time for nothing; a packet that it can neither send "
                     "nor drop does that");
    journal_.Note(EventKind::kSpin, why, queue);
    // It would go on for as long as the driver likes.
    if (!Failover(why)) Break(absl::InternalError(why));
    return;
  }
  // Standing still may have reasons that are none of the backend's (back-pressure), so it is no
  // reason to stop the device, nor to end its connections.
  if (verdict.stalled.empty() || is_ours || backend.holds_connections()) return;
  Failover(absl::StrCat(queues_->Label(verdict.stalled.front()), ": stood still"));
}

void VirtioDevice::ReadHostChanges() {
  const std::optional<DeviceModel::HostChange> change = model_->ReadHostChange();
  if (!change.has_value()) return;
  journal_.Note(change->is_lost ? EventKind::kPortLost : EventKind::kLinkChanged, change->text);
}

}  // namespace vhost

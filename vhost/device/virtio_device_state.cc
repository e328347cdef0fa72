// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VirtioDevice: its state as values, out and in.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernel-abi/system_error.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/virtio_device_lock.h"

namespace vhost {
namespace {

absl::Status Unfit(const std::string& device, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat(device, ": a saved state that does not fit: ", why));
}

}  // namespace

absl::StatusOr<DeviceState> VirtioDevice::SaveState() const {
  absl::MutexLock lock(&mutex_);
  if (queues_->running()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, ": is running, and would go on while its state is saved: pause it"));
  }
  NoteConfig();
  DeviceState state{.id = model_->id(),
                    .status = status_,
                    .acked = acked_,
                    .config_generation = config_generation_,
                    .queues = {}};
  for (int queue = 0; queue < queues_->count(); ++queue) {
    state.queues.push_back({.queue = queue,
                            .enabled = queues_->enabled(queue),
                            .setup = queues_->setup(queue),
                            .base = queues_->base(queue)});
  }
  model_->Save(state);
  return state;
}

absl::Status VirtioDevice::CheckState(const DeviceState& state) const {
  if (state.version != DeviceState::kVersion) {
    return Unfit(name_, absl::StrCat("it is of version ", state.version, ", this is version ",
                                     DeviceState::kVersion));
  }
  if (state.id != model_->id()) {
    return Unfit(name_, absl::StrCat("it is of a ", Name(state.id), " device"));
  }
  if (!offered_.Contains(state.acked)) {
    return Unfit(name_,
                 absl::StrCat("the driver acked what is not offered here: ",
                              absl::StrJoin(FeatureNames(state.id, state.acked - offered_), " ")));
  }
  std::vector<bool> seen(static_cast<size_t>(queues_->count()));
  for (const QueueState& queue : state.queues) {
    if (!queues_->Has(queue.queue) || seen[static_cast<size_t>(queue.queue)]) {
      return Unfit(name_, absl::StrCat("queue ", queue.queue, " of ", queues_->count()));
    }
    seen[static_cast<size_t>(queue.queue)] = true;
  }
  if ((state.status & device_status::kFeaturesOk) != 0) {
    if (absl::Status status = model_->CheckFeatures(state.acked); !status.ok()) {
      return Unfit(name_, std::string(status.message()));
    }
  } else if ((state.status & device_status::kDriverOk) != 0 &&
             (state.status & device_status::kNeedsReset) == 0) {
    return Unfit(name_, "DRIVER_OK without FEATURES_OK");
  }
  return absl::OkStatus();
}

absl::Status VirtioDevice::RestoreState(const DeviceState& state) {
  Lock lock(*this);
  if (status_ != 0) {
    return absl::FailedPreconditionError(absl::StrCat(name_, ": is in use (status ", status_,
                                                      "): only a device in reset can take a "
                                                      "saved state"));
  }
  if (absl::Status status = CheckState(state); !status.ok()) return status;
  const bool was_paused = std::exchange(paused_, true);
  acked_ = state.acked;
  status_ = state.status;
  // Only a driver from before virtio 1 can have agreed on features without it.
  legacy_ = (status_ & device_status::kFeaturesOk) != 0 && !acked_.Has(VirtioFeature::kVersion1);
  for (const QueueState& queue : state.queues) {
    queues_->SetSetup(queue.queue, queue.setup);
    if (queue.enabled) queues_->SetEnabled(queue.queue);
    if (queue.base.has_value()) queues_->SetBase(queue.queue, *queue.base);
  }
  absl::Status status;
  if (IsReady()) {
    status = queues_->CheckEnabled(acked_, memory_);
    if (status.ok()) status = model_->Prepare(acked_);
    if (status.ok()) status = model_->Restore(state);
  }
  if (!status.ok()) {
    Reset();
    paused_ = was_paused;
    return kernel_abi::AddContext(status, name_);
  }
  // The driver is not to be told of a change that is none.
  noted_config_ = model_->config();
  config_generation_ = state.config_generation;
  journal_.Note(EventKind::kRestored, "");
  return absl::OkStatus();
}

}  // namespace vhost

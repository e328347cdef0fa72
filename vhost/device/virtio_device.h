// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The state machine of virtio 1.3 (2.1, 3.1), for a device of any type: the type-specific part is a
// DeviceModel, the vrings are run by a QueueSet.
//
//                  features          FEATURES_OK            DRIVER_OK
//   reset -------> negotiated -------> agreed ------------> running
//     ^                                   |                    |
//     |                               (refused:            a ring breaks, the backend
//     |                                does not stick)     cannot start, memory ...
//     |                                                        v
//     +-------------------- 0 is written ------------------ needs reset
//
// Only in `running` is anything served. Why a device is in `needs reset`, or why FEATURES_OK did
// not stick, stands in Report().problem until the next reset.
//
// A driver from before virtio 1 goes from reset to running by DRIVER_OK alone (WriteLegacyStatus).
//
// A VMM with a transport of its own, which has negotiated already, gets from reset to running and
// back in one step each: Activate and Deactivate.
//
// While it runs, a device can be moved from one backend to another, on request (Handover), because
// the one that serves fails (failover), or because it cannot take the guest's memory; and it can be
// paused. The driver notices nothing of it, except that a socket device ends its connections.
//
// Thread safety: any thread. Lock order: GuestMemory's, this device's, then the backend. Callbacks
// of the event loop take the device's lock; watches are destroyed without it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/backend.h"
#include "vhost/device/backend_selector.h"
#include "vhost/device/device.h"
#include "vhost/device/device_model.h"
#include "vhost/device/device_state.h"
#include "vhost/device/journal.h"
#include "vhost/device/queue_set.h"
#include "vhost/device/stall_detector.h"
#include "vhost/device/watchdog.h"
#include "vhost/event_loop.h"
#include "vhost/event_relay.h"
#include "vhost/guest_memory.h"
#include "vhost/offload.h"
#include "vhost/vring.h"

namespace vhost {

// The address of a ring for a VMM that keeps host addresses: those of its three parts.
struct HostVringSetup {
  uint16_t size = 0;  // entries
  const void* desc = nullptr;
  const void* driver = nullptr;  // available ring
  const void* device = nullptr;  // used ring
};

struct QueueActivation {
  int queue = 0;
  std::variant<VringSetup, HostVringSetup> setup;
  VringBase base = 0;
  // Eventfds of the VMM's, blocking or not, lent until Deactivate (or SetCall); -1: the device's
  // own, kick_fd(queue) and call_fd(queue). Device::Notify signals the device's own only.
  int kick_fd = -1;
  int call_fd = -1;
};

struct Activation {
  VirtioFeatures acked;
  std::vector<QueueActivation> queues;
};

class VirtioDevice final : public Device, public MemoryListener, private DeviceHost {
 public:
  struct Options {
    std::string name;  // "net0"
    // These three must outlive the device.
    kernel_abi::Kernel* kernel = nullptr;
    GuestMemory* memory = nullptr;
    EventLoop* loop = nullptr;
    std::unique_ptr<DeviceModel> model;
    BackendSelector backends;
    FailoverOptions failover;
    // Whom to tell what happens, for the life of the device; nullptr: nobody.
    EventRelay* events = nullptr;
    // Has queues watched that stand still, for the life of the device; nullptr: they are not.
    Watchdog* watchdog = nullptr;
  };
  // Makes the queues' eventfds, watches the backends' error eventfds and follows the memory. An
  // error names the device.
  static absl::StatusOr<std::unique_ptr<VirtioDevice>> Create(Options options);
  // Stops. Must not be called from a callback of the event loop, nor with a lock held that one of
  // its callbacks takes.
  ~VirtioDevice() override;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  // ---- Device: for transports ----
  const std::string& name() const override { return name_; }
  DeviceId device_id() const override { return model_->id(); }
  void SetInterrupter(Interrupter* interrupter, std::string transport) override;
  VirtioFeatures offered() const override;
  VirtioFeatures offered_to_legacy() const override;
  VirtioFeatures acked() const override;
  void WriteDriverFeatures(uint32_t word, uint32_t bits) override;
  uint8_t status() const override;
  void WriteStatus(uint8_t status) override;
  void WriteLegacyStatus(uint8_t status) override;
  int queue_count() const override { return queues_->count(); }
  uint16_t queue_max_size(int queue) const override;
  VringSetup queue_setup(int queue) const override;
  void WriteQueueSetup(int queue, const VringSetup& setup) override;
  bool queue_enabled(int queue) const override;
  void EnableQueue(int queue) override;
  void ResetQueue(int queue) override;
  void ReadConfig(uint32_t offset, std::span<std::byte> to) const override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> from) override;
  uint32_t config_size() const override { return config_size_; }
  uint32_t config_generation() const override;
  int kick_fd(int queue) const override;
  int call_fd(int queue) const override;
  bool ShareCallFd() override;
  void Notify(int queue) override;
  DeviceReport Report() const override;

  // ---- For VMMs with transports of their own ----
  // From reset to running, all or nothing: after an error the device is in reset, nothing is held
  // and the message names what was wrong. FAILED_PRECONDITION if it is not in reset.
  absl::Status Activate(const Activation& activation);
  // Back to reset. When it returns no guest memory is written any more, and lent eventfds can be
  // closed. The bases of the queues that ran, for a later Activate. Empty if nothing ran.
  std::vector<StoppedVring> Deactivate();
  // Another eventfd for a queue's interrupts, lent (-1: the device's own), running or not.
  absl::Status SetCall(int queue, int call_fd);

  // ---- For the host ----
  // Has a backend of kind `to` serve from now on: at once if the device runs, and at its next
  // starts. All or nothing: after an error the old one goes on, and the message says why. Only if
  // it cannot be started again either, the device needs a reset. FAILED_PRECONDITION: the policy or
  // the candidates leave no backend of that kind. `reason` is for reports.
  absl::StatusOr<HandoverReport> Handover(BackendKind to, absl::string_view reason);
  // Nothing is served until Resume, and no guest memory is touched when it returns. What the driver
  // does to the device meanwhile counts; even a reset does not end it. No-op if it is paused.
  void Pause(absl::string_view reason);
  // Goes on where it was, with the same kind of backend unless another was asked for. On an error
  // it is paused still. No-op if it is not.
  absl::Status Resume();

  // The device's state, for another one to go on with. FAILED_PRECONDITION unless it is paused, or
  // nothing runs.
  absl::StatusOr<DeviceState> SaveState() const;
  // From reset to where another device of this type was, and paused: Resume goes on. The guest's
  // memory must be there already. All or nothing: INVALID_ARGUMENT says what does not fit.
  absl::Status RestoreState(const DeviceState& state);

  // Looks whether queues get on, and acts if not; the watchdog calls it once in a period.
  void CheckProgress(StallDetector::Clock::time_point now);

  // ---- MemoryListener ----
  absl::Status CheckMemory(const MemoryTable& table) const override;
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& table) override;

  // Stops for good and hands over what is slow to close, so that many devices can be closed at
  // once (kernel_abi::CloseInParallel). The device may only be destroyed afterwards.
  std::vector<kernel_abi::UniqueFd> Release();

 private:
  // The lock, and what must happen when it is released: watches that are over are destroyed.
  class ABSL_SCOPED_LOCKABLE Lock;

  explicit VirtioDevice(Options options);
  // Watches the error eventfds of backends that are not watched yet.
  absl::Status WatchErrors() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndWatches() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnKick(int queue);
  void OnError(Backend* backend, int queue);

  // DeviceHost.
  void Locked(const std::function<void()>& action) override;
  void ConfigChanged() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ApplyActiveQueues() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KickQueue(int queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void SetStatus(uint8_t status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckFeatures() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StartQueues() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A backend has been started: the model learns of it if it is of another kind than before.
  void NoteServer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves the running queues. The report is kept, also of a move that fails.
  absl::StatusOr<HandoverReport> Move(BackendKind to, HandoverCause cause, const std::string& why,
                                      std::shared_ptr<const MemoryTable> memory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the watchdog has found.
  void ActOnStall(const StallDetector::Verdict& verdict) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What has changed behind the model (a TAP that is gone). Any time.
  void ReadHostChanges() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Away from a backend that fails, if another may serve. False: nothing has changed.
  bool Failover(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<StoppedVring> Reset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // DEVICE_NEEDS_RESET: stops everything and tells the driver.
  void Break(const absl::Status& problem) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, if something that the model asked for went wrong for good: its own ring may be in use
  // at that moment, so it is done when the model has returned.
  void BreakIfStuck() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FillQueue(const QueueActivation& activation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckState(const DeviceState& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The driver is ready, and nobody has given up: queues are to be served.
  bool IsReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return HasStatus(device_status::kDriverOk) && !HasStatus(device_status::kFailed) &&
           !HasStatus(device_status::kNeedsReset);
  }
  bool HasStatus(uint8_t bit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return (status_ & bit) != 0;
  }
  // Moves the generation on if the configuration reads differently from when this was last called.
  void NoteConfig() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  VirtioFeatures KnownFeatures() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  kernel_abi::Kernel& kernel_;
  GuestMemory& guest_memory_;
  EventLoop& loop_;
  const std::unique_ptr<DeviceModel> model_;  // its state is guarded by mutex_
  const uint32_t config_size_;
  BackendSelector backends_;          // guarded by mutex_
  const VirtioFeatures offered_;      // to drivers of either kind
  std::unique_ptr<QueueSet> queues_;  // guarded by mutex_, but for the queues' own eventfds
  const FailoverOptions failover_;
  bool listening_ = false;
  std::unique_ptr<Watchdog::Registration> watchdog_;
  std::unique_ptr<Watch> host_watch_;

  mutable absl::Mutex mutex_;
  using Watches = std::vector<std::unique_ptr<Watch>>;
  std::map<const Backend*, Watches> error_watches_ ABSL_GUARDED_BY(mutex_);
  std::optional<StallDetector> stalls_ ABSL_GUARDED_BY(mutex_);  // nullopt: no watchdog
  Journal journal_ ABSL_GUARDED_BY(mutex_);
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  // Where the queues stood when the device was paused, for Deactivate.
  std::vector<StoppedVring> paused_at_ ABSL_GUARDED_BY(mutex_);
  // Who has served since the last reset, last.
  std::optional<BackendKind> served_by_ ABSL_GUARDED_BY(mutex_);
  // Whom to go on with after a pause.
  std::optional<BackendKind> resume_on_ ABSL_GUARDED_BY(mutex_);
  uint32_t back_off_ms_ ABSL_GUARDED_BY(mutex_);
  Interrupter* interrupter_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::string transport_ ABSL_GUARDED_BY(mutex_) = "none";
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  bool legacy_ ABSL_GUARDED_BY(mutex_) = false;  // the driver is from before virtio 1
  VirtioFeatures acked_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_);
  absl::Status stuck_ ABSL_GUARDED_BY(mutex_);  // for BreakIfStuck
  // Brought up to date when they are looked at.
  mutable uint32_t config_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable std::vector<std::byte> noted_config_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const MemoryTable> memory_ ABSL_GUARDED_BY(mutex_);
  uint64_t resets_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t starts_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a guest ends: it powers off, it resets, it fails, or somebody stops the VMM.
#pragma once

#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "src/vmm/bus.h"

namespace vmm {

enum class PowerEvent {
  kNone,
  kPowerOff,  // the guest asked for it
  kReset,     // the guest asked for it
  kStop,      // a signal, or the console's escape
  kFailure,   // the guest cannot go on; status() says why
};
absl::string_view Name(PowerEvent event);

// What ends the current run of the guest. The first request wins, except that a stop from outside
// replaces a reset: a guest that reboots in a loop must not outrun a SIGTERM. Thread-safe.
class PowerSwitch {
 public:
  static absl::StatusOr<PowerSwitch> Create(kernel_abi::Kernel& kernel);
  PowerSwitch(PowerSwitch&& other) noexcept : changed_(std::move(other.changed_)) {}

  void Request(PowerEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  void Fail(absl::Status why) ABSL_LOCKS_EXCLUDED(mutex_);
  PowerEvent event() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why the guest failed; OK otherwise.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Readable once there is an event.
  int fd() const { return changed_.get(); }
  // For the next run, after a reset.
  void Clear() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit PowerSwitch(kernel_abi::EventFd changed) : changed_(std::move(changed)) {}

  kernel_abi::EventFd changed_;
  mutable absl::Mutex mutex_;
  PowerEvent event_ ABSL_GUARDED_BY(mutex_) = PowerEvent::kNone;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// The fixed ACPI hardware (ACPI 6.5, 4.8.3): PM1 event and control registers and the PM timer, at
// kPm1EventPort. The machine is always in ACPI mode and raises no event, so that only the sleep
// request and the timer do anything.
class AcpiPmDevice final : public BusDevice {
 public:
  explicit AcpiPmDevice(PowerSwitch& power) : power_(power) {}

  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;
  void Reset() ABSL_LOCKS_EXCLUDED(mutex_);

  // SLP_TYP of S5, as the DSDT's \_S5 has it.
  static constexpr uint8_t kSleepTypeS5 = 5;

 private:
  PowerSwitch& power_;
  absl::Mutex mutex_;
  uint16_t enabled_events_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm

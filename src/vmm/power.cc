// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/power.h"

#include <ctime>
#include <utility>

#include "src/vmm/layout.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using vhost::LoadLittleEndian;
using vhost::StoreLittleEndian;

constexpr uint16_t kSciEnabled = 1 << 0;
constexpr uint16_t kSleepEnable = 1 << 13;
constexpr unsigned kSleepTypeShift = 10;
constexpr uint16_t kSleepTypeMask = 7;

constexpr uint64_t kStatusOffset = 0;
constexpr uint64_t kEnableOffset = 2;
constexpr uint64_t kControlOffset = kPm1ControlPort - kPm1EventPort;
constexpr uint64_t kTimerOffset = kPmTimerPort - kPm1EventPort;
constexpr uint64_t kTimerHz = 3'579'545;
constexpr uint64_t kTimerMask = 0xFF'FFFF;  // 24 bits

uint64_t TimerTicks() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto seconds = static_cast<uint64_t>(now.tv_sec);
  const auto nanoseconds = static_cast<uint64_t>(now.tv_nsec);
  return seconds * kTimerHz + nanoseconds * kTimerHz / 1'000'000'000;
}

}  // namespace

absl::string_view Name(PowerEvent event) {
  switch (event) {
    case PowerEvent::kNone:
      return "none";
    case PowerEvent::kPowerOff:
      return "power-off";
    case PowerEvent::kReset:
      return "reset";
    case PowerEvent::kStop:
      return "stop";
    case PowerEvent::kFailure:
      return "failure";
  }
  return "?";
}

absl::StatusOr<PowerSwitch> PowerSwitch::Create(kernel_abi::Kernel& kernel) {
  absl::StatusOr<kernel_abi::EventFd> changed = kernel_abi::EventFd::Create(kernel);
  if (!changed.ok()) return changed.status();
  return PowerSwitch(*std::move(changed));
}

void PowerSwitch::Request(PowerEvent event) {
  absl::MutexLock lock(&mutex_);
  const bool stop_replaces_reset = event_ == PowerEvent::kReset && event == PowerEvent::kStop;
  if (event_ != PowerEvent::kNone && !stop_replaces_reset) return;
  event_ = event;
  changed_.Signal();
}

void PowerSwitch::Fail(absl::Status why) {
  absl::MutexLock lock(&mutex_);
  if (event_ != PowerEvent::kNone) return;
  event_ = PowerEvent::kFailure;
  status_ = std::move(why);
  changed_.Signal();
}

PowerEvent PowerSwitch::event() const {
  absl::MutexLock lock(&mutex_);
  return event_;
}

absl::Status PowerSwitch::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void PowerSwitch::Clear() {
  absl::MutexLock lock(&mutex_);
  if (event_ != PowerEvent::kReset) return;  // A stop that came in between stays.
  event_ = PowerEvent::kNone;
  changed_.Drain();
}

void AcpiPmDevice::Read(uint64_t offset, std::span<std::byte> data) {
  uint64_t value = 0;
  if (offset == kEnableOffset) {
    absl::MutexLock lock(&mutex_);
    value = enabled_events_;
  } else if (offset == kControlOffset) {
    value = kSciEnabled;
  } else if (offset == kTimerOffset) {
    value = TimerTicks() & kTimerMask;
  }
  StoreLittleEndian(data, value);
}

void AcpiPmDevice::Write(uint64_t offset, std::span<const std::byte> data) {
  const auto value = static_cast<uint16_t>(LoadLittleEndian(data));
  if (offset == kEnableOffset || (offset == kStatusOffset && data.size() == 4)) {
    absl::MutexLock lock(&mutex_);
    enabled_events_ =
        offset == kEnableOffset ? value : static_cast<uint16_t>(LoadLittleEndian(data) >> 16);
  } else if (offset == kControlOffset && (value & kSleepEnable) != 0) {
    if (((value >> kSleepTypeShift) & kSleepTypeMask) == kSleepTypeS5) {
      power_.Request(PowerEvent::kPowerOff);
    }
  }
}

void AcpiPmDevice::Reset() {
  absl::MutexLock lock(&mutex_);
  enabled_events_ = 0;
}

}  // namespace vmm

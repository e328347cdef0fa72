// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The two leftovers of a PC that a kernel may ask for without looking whether they are there.
#pragma once

#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bus.h"
#include "src/vmm/power.h"

namespace vmm {

// Of the keyboard controller only the line to the CPU's reset pin ("reboot=k"), behind port 0x64.
// The FADT says that there is no keyboard, and the status register that nothing is pending.
class I8042Device final : public BusDevice {
 public:
  explicit I8042Device(PowerSwitch& power) : power_(power) {}
  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  PowerSwitch& power_;
};

// An MC146818 whose time is the host's (UTC) and cannot be set; no alarm, no periodic interrupt.
// Its memory, which firmware would fill, reads as zero.
class RtcDevice final : public BusDevice {
 public:
  void Read(uint64_t offset, std::span<std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(uint64_t offset, std::span<const std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Mutex mutex_;
  uint8_t index_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm

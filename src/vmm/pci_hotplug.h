// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bus.h"

namespace vmm {

// How the guest learns that a PCI slot is no longer empty or is to be emptied, and says that it may
// be: three registers, an edge-triggered interrupt, and AML that reads and writes them for the
// guest (acpi.cc). Linux needs nothing for it but its ACPI hot-plug driver, which is built in.
//
//   plug:    slot filled -> Announce -> interrupt -> the guest reads "plugged" and looks at the
//   slot unplug:  Ask -> interrupt -> the guest reads "asked", lets go, and writes "eject" ->
//   `eject`
//
// A guest may also eject a slot that nobody asked for. Thread-safe.
class PciHotplug final : public BusDevice {
 public:
  // Registers of 32 bits, a bit a slot.
  static constexpr uint64_t kPlugged = 0;  // reading clears it
  static constexpr uint64_t kAsked = 4;    // reading clears it
  static constexpr uint64_t kEject = 8;    // write-only

  struct Connections {
    std::function<void()> interrupt;           // an edge of kHotplugGsi
    std::function<void(uint32_t slot)> eject;  // on the vCPU's thread; the slot may be empty
  };
  explicit PciHotplug(Connections connections) : connections_(std::move(connections)) {}

  void Announce(uint32_t slot) ABSL_LOCKS_EXCLUDED(mutex_);
  void Ask(uint32_t slot) ABSL_LOCKS_EXCLUDED(mutex_);
  // The machine is reset: a guest that boots looks at all slots by itself.
  void Reset() ABSL_LOCKS_EXCLUDED(mutex_);

  void Read(uint64_t offset, std::span<std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  const Connections connections_;
  absl::Mutex mutex_;
  uint32_t plugged_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t asked_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm

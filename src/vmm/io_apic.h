// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bus.h"
#include "src/vmm/layout.h"

namespace vmm {

// The I/O APIC (Intel 82093AA) for a split irqchip, where KVM has the local APICs only: a pin that
// is raised becomes a message to a local APIC. With a full irqchip KVM has one of these itself.
//
// Thread-safe: vCPUs access its registers and end interrupts while devices drive its pins.
class IoApic final : public BusDevice {
 public:
  static constexpr uint64_t kBytes = 0x100;

  // The message of a pin, as an MSI.
  struct Message {
    uint64_t address = 0;
    uint32_t data = 0;
    friend bool operator==(const Message&, const Message&) = default;
  };
  struct Connections {
    // Sends a message to a local APIC.
    std::function<void(const Message&)> send;
    // The message that pin `gsi`, which is level triggered, sends from now on. Who tells the I/O
    // APIC that an interrupt was ended (KVM_EXIT_IOAPIC_EOI) must know it before it is sent.
    std::function<void(uint32_t gsi, const Message&)> announce;
  };
  // Both are called with a lock held, and must not call back.
  explicit IoApic(Connections connections) : connections_(std::move(connections)) { Reset(); }

  void SetLine(uint32_t gsi, bool level) ABSL_LOCKS_EXCLUDED(mutex_);
  // A processor ended the interrupt `vector`, which is level triggered.
  void EndOfInterrupt(uint8_t vector) ABSL_LOCKS_EXCLUDED(mutex_);
  void Reset() ABSL_LOCKS_EXCLUDED(mutex_);

  void Read(uint64_t offset, std::span<std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(uint64_t offset, std::span<const std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Pin {
    uint64_t entry = 0;    // the redirection entry
    bool high = false;     // the line
    bool pending = false;  // edge triggered: it rose while it was masked
    std::optional<Message> announced;
  };

  uint32_t ReadRegister(uint32_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint32_t index, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends what is due at a pin, if it may.
  void Service(uint32_t gsi) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Connections connections_;
  absl::Mutex mutex_;
  uint32_t index_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<Pin, kIoApicPins> pins_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vmm

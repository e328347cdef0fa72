// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "src/vmm/bus.h"

namespace vmm {

// A 16550A serial port. It sends at once, whatever the divisor says, so that the transmitter is
// always empty; it receives through a FIFO of 16 bytes. Thread-safe.
class SerialPort final : public BusDevice {
 public:
  struct Connections {
    // Sets the level of the interrupt line. Called with a lock held: must not call back.
    std::function<void(bool)> set_interrupt;
    // Takes each byte that the guest sends. It may block.
    std::function<void(std::byte)> send;
    // A receive FIFO that was full has room again.
    std::function<void()> on_room;
  };
  explicit SerialPort(Connections connections) : connections_(std::move(connections)) {}

  void Read(uint64_t offset, std::span<std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(uint64_t offset, std::span<const std::byte> data) override ABSL_LOCKS_EXCLUDED(mutex_);

  // How many bytes Receive would take now.
  size_t room() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Bytes from the other end. What there is no room for is lost (an overrun), as on the wire.
  void Receive(std::span<const std::byte> data) ABSL_LOCKS_EXCLUDED(mutex_);
  void Reset() ABSL_LOCKS_EXCLUDED(mutex_);

  static constexpr size_t kFifoBytes = 16;

 private:
  struct Registers {
    uint8_t interrupt_enable = 0;
    uint8_t fifo_control = 0;
    uint8_t line_control = 0;
    uint8_t modem_control = 0;
    uint8_t scratch = 0;
    uint16_t divisor = 12;  // 9600 baud
    bool overrun = false;
    bool transmitter_empty_pending = false;
  };

  uint8_t ReadRegister(uint64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if `value` is to be sent.
  bool WriteRegister(uint64_t offset, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Push(std::byte data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t InterruptIdentity() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateInterrupt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Connections connections_;

  mutable absl::Mutex mutex_;
  Registers registers_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::byte> received_ ABSL_GUARDED_BY(mutex_);
  bool interrupt_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm

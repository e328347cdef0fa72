// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/serial.h"

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using vhost::StoreLittleEndian;

// Offsets. The first two are the divisor while kDivisorLatch is set.
constexpr uint64_t kData = 0;
constexpr uint64_t kInterruptEnable = 1;
constexpr uint64_t kInterruptIdentity = 2;  // read
constexpr uint64_t kFifoControl = 2;        // write
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kEnableReceived = 1 << 0;
constexpr uint8_t kEnableTransmitterEmpty = 1 << 1;
constexpr uint8_t kEnableLineStatus = 1 << 2;
constexpr uint8_t kEnableMask = 0x0F;

constexpr uint8_t kIdentityNone = 0x01;
constexpr uint8_t kIdentityTransmitterEmpty = 0x02;
constexpr uint8_t kIdentityReceived = 0x04;
constexpr uint8_t kIdentityLineStatus = 0x06;
constexpr uint8_t kIdentityFifos = 0xC0;

constexpr uint8_t kFifoEnable = 1 << 0;
constexpr uint8_t kFifoClearReceiver = 1 << 1;
constexpr uint8_t kDivisorLatch = 1 << 7;

constexpr uint8_t kLineDataReady = 1 << 0;
constexpr uint8_t kLineOverrun = 1 << 1;
constexpr uint8_t kLineTransmitterEmpty = 0x60;  // holding register and shift register

constexpr uint8_t kModemLoopback = 1 << 4;
constexpr uint8_t kModemMask = 0x1F;
constexpr uint8_t kModemStatusConnected = 0xB0;  // carrier, data set ready, clear to send

// In loopback the four outputs are wired to the four inputs.
uint8_t LoopedModemStatus(uint8_t control) {
  const bool dtr = (control & 1) != 0;
  const bool rts = (control & 2) != 0;
  const bool out1 = (control & 4) != 0;
  const bool out2 = (control & 8) != 0;
  return static_cast<uint8_t>(rts << 4 | dtr << 5 | out1 << 6 | out2 << 7);
}

}  // namespace

void SerialPort::Read(uint64_t offset, std::span<std::byte> data) {
  bool has_room_again = false;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_full = received_.size() >= kFifoBytes;
    StoreLittleEndian(data, ReadRegister(offset));
    has_room_again = was_full && received_.size() < kFifoBytes;
    UpdateInterrupt();
  }
  if (has_room_again) connections_.on_room();
}

void SerialPort::Write(uint64_t offset, std::span<const std::byte> data) {
  bool send = false;
  bool has_room_again = false;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_full = received_.size() >= kFifoBytes;
    send = WriteRegister(offset, static_cast<uint8_t>(data[0]));
    has_room_again = was_full && received_.size() < kFifoBytes;
  }
  // The byte leaves before the interrupt says that the transmitter is empty.
  if (send) connections_.send(data[0]);
  {
    absl::MutexLock lock(&mutex_);
    UpdateInterrupt();
  }
  if (has_room_again) connections_.on_room();
}

uint8_t SerialPort::ReadRegister(uint64_t offset) {
  const bool divisor = (registers_.line_control & kDivisorLatch) != 0;
  switch (offset) {
    case kData: {
      if (divisor) return static_cast<uint8_t>(registers_.divisor);
      if (received_.empty()) return 0;
      const std::byte data = received_.front();
      received_.pop_front();
      return static_cast<uint8_t>(data);
    }
    case kInterruptEnable:
      return divisor ? static_cast<uint8_t>(registers_.divisor >> 8) : registers_.interrupt_enable;
    case kInterruptIdentity: {
      const uint8_t identity = InterruptIdentity();
      if (identity == kIdentityTransmitterEmpty) registers_.transmitter_empty_pending = false;
      const bool fifos = (registers_.fifo_control & kFifoEnable) != 0;
      return static_cast<uint8_t>(identity | (fifos ? kIdentityFifos : 0));
    }
    case kLineControl:
      return registers_.line_control;
    case kModemControl:
      return registers_.modem_control;
    case kLineStatus: {
      const uint8_t ready = received_.empty() ? 0 : kLineDataReady;
      const uint8_t overrun = registers_.overrun ? kLineOverrun : 0;
      registers_.overrun = false;
      return static_cast<uint8_t>(kLineTransmitterEmpty | ready | overrun);
    }
    case kModemStatus:
      return (registers_.modem_control & kModemLoopback) != 0
                 ? LoopedModemStatus(registers_.modem_control)
                 : kModemStatusConnected;
    case kScratch:
      return registers_.scratch;
    default:
      return 0xFF;
  }
}

bool SerialPort::WriteRegister(uint64_t offset, uint8_t value) {
  const bool divisor = (registers_.line_control & kDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        registers_.divisor = static_cast<uint16_t>((registers_.divisor & 0xFF00) | value);
        return false;
      }
      registers_.transmitter_empty_pending = true;
      if ((registers_.modem_control & kModemLoopback) == 0) return true;
      Push(std::byte{value});
      return false;
    case kInterruptEnable: {
      if (divisor) {
        registers_.divisor = static_cast<uint16_t>((registers_.divisor & 0x00FF) | value << 8);
        return false;
      }
      // Enabling it with an empty transmitter, which ours always is, raises it.
      const uint8_t enabled = value & static_cast<uint8_t>(~registers_.interrupt_enable);
      if ((enabled & kEnableTransmitterEmpty) != 0) registers_.transmitter_empty_pending = true;
      registers_.interrupt_enable = value & kEnableMask;
      return false;
    }
    case kFifoControl:
      registers_.fifo_control = value;
      if ((value & kFifoClearReceiver) != 0) received_.clear();
      return false;
    case kLineControl:
      registers_.line_control = value;
      return false;
    case kModemControl:
      registers_.modem_control = value & kModemMask;
      return false;
    case kScratch:
      registers_.scratch = value;
      return false;
    default:
      return false;
  }
}

void SerialPort::Push(std::byte data) {
  if (received_.size() >= kFifoBytes) {
    registers_.overrun = true;
  } else {
    received_.push_back(data);
  }
}

size_t SerialPort::room() const {
  absl::MutexLock lock(&mutex_);
  return kFifoBytes - received_.size();
}

void SerialPort::Receive(std::span<const std::byte> data) {
  absl::MutexLock lock(&mutex_);
  for (std::byte one : data) Push(one);
  UpdateInterrupt();
}

void SerialPort::Reset() {
  absl::MutexLock lock(&mutex_);
  registers_ = {};
  received_.clear();
  UpdateInterrupt();
}

uint8_t SerialPort::InterruptIdentity() const {
  const uint8_t enabled = registers_.interrupt_enable;
  if ((enabled & kEnableLineStatus) != 0 && registers_.overrun) return kIdentityLineStatus;
  if ((enabled & kEnableReceived) != 0 && !received_.empty()) return kIdentityReceived;
  if ((enabled & kEnableTransmitterEmpty) != 0 && registers_.transmitter_empty_pending) {
    return kIdentityTransmitterEmpty;
  }
  return kIdentityNone;
}

void SerialPort::UpdateInterrupt() {
  const bool wanted = InterruptIdentity() != kIdentityNone;
  if (wanted == interrupt_) return;
  interrupt_ = wanted;
  connections_.set_interrupt(wanted);
}

}  // namespace vmm

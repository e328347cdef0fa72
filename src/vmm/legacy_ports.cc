// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/legacy_ports.h"

#include <ctime>

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using vhost::LoadLittleEndian;
using vhost::StoreLittleEndian;

constexpr uint8_t kPulseResetLine = 0xFE;

// Registers of the MC146818. The century's place is what the FADT says.
constexpr uint8_t kSeconds = 0x00;
constexpr uint8_t kMinutes = 0x02;
constexpr uint8_t kHours = 0x04;
constexpr uint8_t kWeekday = 0x06;
constexpr uint8_t kDay = 0x07;
constexpr uint8_t kMonth = 0x08;
constexpr uint8_t kYear = 0x09;
constexpr uint8_t kRegisterA = 0x0A;
constexpr uint8_t kRegisterB = 0x0B;
constexpr uint8_t kRegisterD = 0x0D;
constexpr uint8_t kCentury = 0x32;

constexpr uint8_t k32768HzDivider = 0x26;  // never "update in progress"
constexpr uint8_t k24Hours = 0x02;         // and BCD
constexpr uint8_t kTimeIsValid = 0x80;

uint8_t Bcd(int value) { return static_cast<uint8_t>((value / 10 % 10) << 4 | value % 10); }

uint8_t RtcRegister(uint8_t index) {
  const time_t now = time(nullptr);
  tm utc{};
  gmtime_r(&now, &utc);
  const int year = utc.tm_year + 1900;
  switch (index) {
    case kSeconds:
      return Bcd(utc.tm_sec);
    case kMinutes:
      return Bcd(utc.tm_min);
    case kHours:
      return Bcd(utc.tm_hour);
    case kWeekday:
      return Bcd(utc.tm_wday + 1);
    case kDay:
      return Bcd(utc.tm_mday);
    case kMonth:
      return Bcd(utc.tm_mon + 1);
    case kYear:
      return Bcd(year % 100);
    case kCentury:
      return Bcd(year / 100);
    case kRegisterA:
      return k32768HzDivider;
    case kRegisterB:
      return k24Hours;
    case kRegisterD:
      return kTimeIsValid;
    default:
      return 0;
  }
}

}  // namespace

void I8042Device::Read(uint64_t, std::span<std::byte> data) { StoreLittleEndian(data, 0); }

void I8042Device::Write(uint64_t, std::span<const std::byte> data) {
  if (LoadLittleEndian(data.first(1)) == kPulseResetLine) power_.Request(PowerEvent::kReset);
}

void RtcDevice::Read(uint64_t offset, std::span<std::byte> data) {
  absl::MutexLock lock(&mutex_);
  StoreLittleEndian(data, offset == 0 ? index_ : RtcRegister(index_));
}

void RtcDevice::Write(uint64_t offset, std::span<const std::byte> data) {
  if (offset != 0) return;
  absl::MutexLock lock(&mutex_);
  index_ = static_cast<uint8_t>(LoadLittleEndian(data.first(1)) & 0x7F);  // bit 7 masks NMIs
}

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The small parts: power, legacy ports, CPUID.
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "kernel-abi/kernel.h"
#include "src/vmm/cpuid.h"
#include "src/vmm/layout.h"
#include "src/vmm/legacy_ports.h"
#include "src/vmm/power.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

void Write(BusDevice& device, uint64_t offset, size_t size, uint64_t value) {
  std::array<std::byte, 8> data{};
  vhost::StoreLittleEndian(data, value);
  device.Write(offset, std::span(data).first(size));
}

uint64_t Read(BusDevice& device, uint64_t offset, size_t size) {
  std::array<std::byte, 8> data{};
  device.Read(offset, std::span(data).first(size));
  return vhost::LoadLittleEndian(data);
}

class PowerTest : public testing::Test {
 protected:
  PowerSwitch power_ = *PowerSwitch::Create(kernel_abi::LinuxKernel());
};

TEST_F(PowerTest, TheFirstRequestWins) {
  power_.Request(PowerEvent::kPowerOff);
  power_.Request(PowerEvent::kReset);
  power_.Fail(absl::InternalError("late"));
  EXPECT_EQ(power_.event(), PowerEvent::kPowerOff);
  EXPECT_TRUE(power_.status().ok());
}

TEST_F(PowerTest, AStopFromOutsideReplacesAReset) {
  power_.Request(PowerEvent::kReset);
  power_.Request(PowerEvent::kStop);
  power_.Clear();
  EXPECT_EQ(power_.event(), PowerEvent::kStop);
}

TEST_F(PowerTest, AfterAResetThereIsANewRun) {
  power_.Request(PowerEvent::kReset);
  power_.Clear();
  EXPECT_EQ(power_.event(), PowerEvent::kNone);
  EXPECT_FALSE(kernel_abi::EventFd::IsEventFdSignalled(power_.fd()));
}

TEST_F(PowerTest, SleepStateS5PowersOff) {
  AcpiPmDevice device(power_);
  constexpr uint64_t kControl = kPm1ControlPort - kPm1EventPort;
  EXPECT_EQ(Read(device, kControl, 2) & 1, 1U);  // ACPI mode
  Write(device, kControl, 2, 5 << 10);           // the type without the enable bit
  EXPECT_EQ(power_.event(), PowerEvent::kNone);
  Write(device, kControl, 2, (1 << 13) | (4 << 10));  // S4 is not offered
  EXPECT_EQ(power_.event(), PowerEvent::kNone);
  Write(device, kControl, 2, (1 << 13) | (5 << 10));
  EXPECT_EQ(power_.event(), PowerEvent::kPowerOff);
}

TEST_F(PowerTest, ThePmTimerHas24BitsAndRuns) {
  AcpiPmDevice device(power_);
  constexpr uint64_t kTimer = kPmTimerPort - kPm1EventPort;
  const uint64_t before = Read(device, kTimer, 4);
  EXPECT_LE(before, 0xFF'FFFFU);
  uint64_t after = before;
  for (int i = 0; i < 1'000'000 && after == before; ++i) after = Read(device, kTimer, 4);
  EXPECT_NE(after, before);
}

TEST_F(PowerTest, TheKeyboardControllerOnlyResets) {
  I8042Device device(power_);
  Write(device, 0, 1, 0xAD);
  EXPECT_EQ(Read(device, 0, 1), 0U);
  EXPECT_EQ(power_.event(), PowerEvent::kNone);
  Write(device, 0, 1, 0xFE);
  EXPECT_EQ(power_.event(), PowerEvent::kReset);
}

TEST(Rtc, TellsTheHostsTimeInBcd) {
  RtcDevice rtc;
  const auto get = [&](uint8_t index) {
    Write(rtc, 0, 1, index);
    return Read(rtc, 1, 1);
  };
  EXPECT_EQ(get(0x32), 0x20U);  // the century
  EXPECT_GE(get(0x09), 0x24U);  // the year
  EXPECT_GE(get(0x08), 0x01U);
  EXPECT_LE(get(0x08), 0x12U);
  EXPECT_EQ(get(0x0A) & 0x80, 0U);     // no update in progress
  EXPECT_EQ(get(0x0D) & 0x80, 0x80U);  // valid
}

TEST(Cpuid, EachVcpuHasItsIdAndOneSocketOfCores) {
  kernel_abi::CpuidTable supported({
      {.function = 0, .eax = 0x1F},
      {.function = 1, .ebx = 0xAB12'3456, .ecx = 1U << 5},
      {.function = 4, .eax = 0x7C00'0121 | 0xFFF << 14},  // L1 of another topology
      {.function = 4, .index = 3, .eax = 0x163},
      {.function = 0xB, .edx = 77},
      {.function = 0x1F, .edx = 77},
      {.function = 0x8000'0001, .ecx = 0x7},
      {.function = 0x8000'0008, .ecx = 0xFFF},
      {.function = 0x8000'001E, .eax = 99, .ebx = 0xFFFF, .ecx = 0xFFFF},
  });
  const kernel_abi::CpuidTable table = VcpuCpuid(supported, 2, 3, true);
  std::map<std::pair<uint32_t, uint32_t>, kvm_cpuid_entry2> leaves;
  for (const kvm_cpuid_entry2& leaf : table.entries()) leaves[{leaf.function, leaf.index}] = leaf;

  const auto& features = leaves.at({1, 0});
  EXPECT_EQ(features.ebx >> 24, 2U);
  EXPECT_EQ(features.ebx >> 16 & 0xFF, 4U);  // room for ids of two bits
  EXPECT_EQ(features.ebx & 0xFFFF, 0x3456U);
  EXPECT_NE(features.ecx & 1U << 31, 0U);            // a hypervisor
  EXPECT_EQ(features.ecx & 1U << 5, 0U);             // that runs no other: VMX
  EXPECT_EQ(leaves.at({0x8000'0001, 0}).ecx, 0x3U);  // SVM
  EXPECT_NE(features.ecx & 1U << 24, 0U);            // TSC deadline
  EXPECT_NE(features.edx & 1U << 28, 0U);            // more than one processor
  EXPECT_EQ((leaves.at({4, 0}).eax >> 14 & 0xFFF), 0U);
  EXPECT_EQ((leaves.at({4, 3}).eax >> 14 & 0xFFF), 2U);
  EXPECT_EQ(leaves.at({0xB, 0}).edx, 2U);
  EXPECT_EQ(leaves.at({0xB, 0}).ecx, 0x100U);
  EXPECT_EQ(leaves.at({0xB, 1}).eax, 2U);
  EXPECT_EQ(leaves.at({0xB, 1}).ebx, 3U);
  EXPECT_EQ(leaves.at({0xB, 1}).ecx, 0x201U);
  EXPECT_EQ(leaves.count({0x1F, 0}), 0U);
  EXPECT_EQ(leaves.at({0x8000'0008, 0}).ecx & 0xFF, 2U);
  EXPECT_EQ(leaves.at({0x8000'001E, 0}).eax, 2U);
}

TEST(Cpuid, OneCpuNeedsNoTopologyBits) {
  kernel_abi::CpuidTable supported({{.function = 1}, {.function = 0xB}});
  const kernel_abi::CpuidTable table = VcpuCpuid(supported, 0, 1, false);
  EXPECT_EQ(table.entries()[0].edx & 1U << 28, 0U);
  EXPECT_EQ(table.entries()[0].ecx & 1U << 24, 0U);
  EXPECT_EQ(table.entries()[2].eax, 0U);  // leaf 0xB, cores: ids of no bits
}

}  // namespace
}  // namespace vmm

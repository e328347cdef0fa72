// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/io_apic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class IoApicTest : public testing::Test {
 protected:
  void Out(uint64_t offset, uint32_t value) {
    std::array<std::byte, 4> data{};
    vhost::StoreLittleEndian(data, value);
    apic_.Write(offset, data);
  }
  void WriteRegister(uint32_t index, uint32_t value) {
    Out(0, index);
    Out(0x10, value);
  }
  uint32_t ReadRegister(uint32_t index) {
    Out(0, index);
    std::array<std::byte, 4> data{};
    apic_.Read(0x10, data);
    return static_cast<uint32_t>(vhost::LoadLittleEndian(data));
  }
  void SetEntry(uint32_t pin, uint64_t entry) {
    WriteRegister(0x10 + 2 * pin + 1, static_cast<uint32_t>(entry >> 32));
    WriteRegister(0x10 + 2 * pin, static_cast<uint32_t>(entry));
  }

  std::vector<uint32_t> sent_;       // data of the messages
  std::vector<uint32_t> announced_;  // GSIs
  uint64_t address_ = 0;             // of the last message
  IoApic apic_{
      {.send =
           [this](const IoApic::Message& message) {
             sent_.push_back(message.data);
             address_ = message.address;
           },
       .announce = [this](uint32_t gsi, const IoApic::Message&) { announced_.push_back(gsi); }}};
};

constexpr uint64_t kMasked = 1 << 16;
constexpr uint64_t kLevel = 1 << 15;
constexpr uint32_t kLevelData = 1 << 15 | 1 << 14;

TEST_F(IoApicTest, HasTheVersionAndPinsOfKvmsOwn) {
  EXPECT_EQ(ReadRegister(1), 0x0017'0011U);
  EXPECT_EQ(ReadRegister(0x10), kMasked);
  EXPECT_EQ(ReadRegister(0x10 + 2 * kIoApicPins), 0U);
}

TEST_F(IoApicTest, AnEdgeIsSentOnce) {
  SetEntry(4, uint64_t{3} << 56 | 0x31);
  apic_.SetLine(4, true);
  EXPECT_THAT(sent_, ElementsAre(0x31));
  EXPECT_EQ(address_, 0xFEE0'3000U);
  apic_.SetLine(4, false);
  apic_.SetLine(4, true);
  EXPECT_THAT(sent_, ElementsAre(0x31, 0x31));
  EXPECT_THAT(announced_, IsEmpty());
}

TEST_F(IoApicTest, AnEdgeThatCameWhileItWasMaskedIsSentOnUnmasking) {
  SetEntry(4, kMasked | 0x31);
  apic_.SetLine(4, true);
  apic_.SetLine(4, false);
  EXPECT_THAT(sent_, IsEmpty());
  SetEntry(4, 0x31);
  EXPECT_THAT(sent_, ElementsAre(0x31));
}

TEST_F(IoApicTest, ALevelIsSentAgainForAsLongAsItIsHighAfterItsEnd) {
  SetEntry(16, kLevel | 0x41);
  EXPECT_THAT(announced_, ElementsAre(16U));
  apic_.SetLine(16, true);
  EXPECT_THAT(sent_, ElementsAre(kLevelData | 0x41));
  EXPECT_NE(ReadRegister(0x10 + 32) & 1U << 14, 0U);  // remote IRR
  apic_.EndOfInterrupt(0x40);                         // another's
  EXPECT_EQ(sent_.size(), 1U);
  apic_.EndOfInterrupt(0x41);
  EXPECT_EQ(sent_.size(), 2U);
  apic_.SetLine(16, false);
  apic_.EndOfInterrupt(0x41);
  EXPECT_EQ(sent_.size(), 2U);
  EXPECT_THAT(announced_, ElementsAre(16U));  // nothing changed
}

TEST_F(IoApicTest, ALevelThatIsHighIsSentOnUnmasking) {
  SetEntry(16, kMasked | kLevel | 0x41);
  apic_.SetLine(16, true);
  EXPECT_THAT(sent_, IsEmpty());
  EXPECT_THAT(announced_, IsEmpty());
  SetEntry(16, kLevel | 0x42);
  EXPECT_THAT(sent_, ElementsAre(kLevelData | 0x42));
}

TEST_F(IoApicTest, SwitchingToEdgeAndBackEndsALevel) {
  SetEntry(16, kLevel | 0x41);
  apic_.SetLine(16, true);
  WriteRegister(0x10 + 32, kMasked | 0x41);
  WriteRegister(0x10 + 32, kLevel | 0x41);
  EXPECT_EQ(sent_.size(), 2U);
}

TEST_F(IoApicTest, ReadOnlyBitsCannotBeWritten) {
  SetEntry(5, kMasked | 1 << 14 | 1 << 12 | 0x50);
  EXPECT_EQ(ReadRegister(0x10 + 10), kMasked | 0x50);
}

TEST_F(IoApicTest, PinsThatAreNotThereAreIgnored) {
  apic_.SetLine(kIoApicPins, true);
  apic_.SetLine(1000, true);
  WriteRegister(0xFF, 0);
  EXPECT_THAT(sent_, IsEmpty());
}

TEST_F(IoApicTest, ResetMasksEverything) {
  SetEntry(4, 0x31);
  apic_.Reset();
  apic_.SetLine(4, true);
  EXPECT_THAT(sent_, IsEmpty());
  EXPECT_EQ(ReadRegister(0x10 + 8), kMasked);
}

}  // namespace
}  // namespace vmm

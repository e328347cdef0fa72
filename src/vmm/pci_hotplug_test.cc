// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/pci_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PciHotplugTest : public testing::Test {
 protected:
  uint64_t Get(uint64_t offset, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    hotplug_.Read(offset, std::span(bytes).first(size));
    return vhost::LoadLittleEndian(bytes);
  }
  void Set(uint64_t offset, uint64_t value, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    vhost::StoreLittleEndian(bytes, value);
    hotplug_.Write(offset, std::span(bytes).first(size));
  }

  int interrupts_ = 0;
  std::vector<uint32_t> ejected_;
  PciHotplug hotplug_{{.interrupt = [this] { ++interrupts_; },
                       .eject = [this](uint32_t slot) { ejected_.push_back(slot); }}};
};

TEST_F(PciHotplugTest, TellsOfEachChangeOnce) {
  hotplug_.Announce(3);
  hotplug_.Ask(31);
  EXPECT_EQ(interrupts_, 2);
  EXPECT_EQ(Get(PciHotplug::kPlugged), 8U);
  EXPECT_EQ(Get(PciHotplug::kAsked), 0x8000'0000U);
  EXPECT_EQ(Get(PciHotplug::kPlugged), 0U);
  EXPECT_EQ(Get(PciHotplug::kAsked), 0U);
  EXPECT_EQ(Get(PciHotplug::kEject), 0U);
}

TEST_F(PciHotplugTest, ANewDeviceIsNotAskedForBecauseItsPredecessorWas) {
  hotplug_.Ask(3);
  hotplug_.Announce(3);
  EXPECT_EQ(Get(PciHotplug::kAsked), 0U);
  EXPECT_EQ(Get(PciHotplug::kPlugged), 8U);
}

TEST_F(PciHotplugTest, AResetForgets) {
  hotplug_.Announce(3);
  hotplug_.Ask(4);
  hotplug_.Reset();
  EXPECT_EQ(Get(PciHotplug::kPlugged), 0U);
  EXPECT_EQ(Get(PciHotplug::kAsked), 0U);
}

TEST_F(PciHotplugTest, EjectsTheSlotsThatAreWritten) {
  Set(PciHotplug::kEject, 0x8000'0012);
  EXPECT_THAT(ejected_, ElementsAre(1, 4, 31));
}

TEST_F(PciHotplugTest, AccessesThatAreNoRegistersDoNothing) {
  hotplug_.Announce(3);
  EXPECT_EQ(Get(PciHotplug::kPlugged, 1), 0U);
  EXPECT_EQ(Get(PciHotplug::kPlugged + 2, 4), 0U);
  Set(PciHotplug::kEject, 2, 1);
  Set(PciHotplug::kEject + 2, 2, 2);
  Set(PciHotplug::kAsked, 2);
  EXPECT_THAT(ejected_, IsEmpty());
  EXPECT_EQ(Get(PciHotplug::kPlugged), 8U);
}

}  // namespace
}  // namespace vmm

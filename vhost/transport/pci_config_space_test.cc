// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/pci_config_space.h"

#include <gtest/gtest.h>

#include <array>

#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

class PciConfigSpaceTest : public testing::Test {
 protected:
  PciConfigSpaceTest() {
    space_.AddBar(0, 0x1000, PciConfigSpace::BarType::k32Bit);
    space_.AddBar(2, 0x2'0000'0000, PciConfigSpace::BarType::k64BitPrefetchable);
  }
  uint64_t Get(uint32_t offset, size_t size) {
    std::array<std::byte, 8> bytes{};
    space_.Read(offset, std::span(bytes).first(size));
    return LoadLittleEndian(std::span(bytes).first(size));
  }
  void Set(uint32_t offset, uint64_t value, size_t size) {
    std::array<std::byte, 8> bytes{};
    StoreLittleEndian(bytes, value);
    space_.Write(offset, std::span(bytes).first(size));
  }

  PciConfigSpace space_{{.vendor = 0x1af4,
                         .device = 0x1041,
                         .revision = 1,
                         .class_code = 0x020000,
                         .subsystem_vendor = 0x1af4,
                         .subsystem = 0x41,
                         .interrupt_pin = 1}};
};

TEST_F(PciConfigSpaceTest, ReadOnlyRegistersIgnoreWrites) {
  for (uint32_t offset : {0x00u, 0x02u, 0x06u, 0x08u, 0x0au, 0x0eu, 0x2cu, 0x2eu, 0x34u, 0x3du}) {
    const uint64_t before = Get(offset, 2);
    Set(offset, ~before, offset == 0x3d || offset == 0x0e ? 1 : 2);
    EXPECT_EQ(Get(offset, 2), before) << offset;
  }
}

TEST_F(PciConfigSpaceTest, TheCommandTakesWhatThisFunctionHas) {
  Set(4, 0xffff, 2);
  EXPECT_EQ(Get(4, 2), 0x0546u);  // no I/O space, no special cycles
}

TEST_F(PciConfigSpaceTest, ABarOfPortsHasAnEnableBitOfItsOwn) {
  space_.AddBar(5, 0x40, PciConfigSpace::BarType::kIo);
  EXPECT_EQ(Get(0x24, 4), 1u);
  Set(0x24, 0xffff'ffff, 4);
  EXPECT_EQ(Get(0x24, 4), 0xffff'ffc1u);
  EXPECT_FALSE(space_.bars().back().address.has_value());
  Set(0x24, 0xc043, 4);
  Set(4, pci_command::kMemory, 2);
  const PciBar expected{.index = 5, .size = 0x40, .is_io = true, .address = 0xc040};
  EXPECT_EQ(space_.bars().back(), expected);
  Set(4, 0xffff, 2);
  EXPECT_EQ(Get(4, 2), 0x0547u);
  EXPECT_TRUE(space_.bars().back().decoded);
  EXPECT_FALSE(space_.PlaceBar(5, 0x1'0000'0000).ok());
  EXPECT_FALSE(space_.PlaceBar(5, 0xc020).ok());
  EXPECT_TRUE(space_.PlaceBar(5, 0xd000).ok());
  EXPECT_EQ(Get(0x24, 4), 0xd001u);
}

TEST_F(PciConfigSpaceTest, ABarIsSizedByItsReadOnlyBits) {
  Set(0x10, 0xffff'ffff, 4);
  EXPECT_EQ(Get(0x10, 4), 0xffff'f000u);
  Set(0x18, 0xffff'ffff, 4);
  Set(0x1c, 0xffff'ffff, 4);
  EXPECT_EQ(Get(0x18, 4), 0x0000'000cu);  // larger than 4 GiB: all bits are in the upper half
  EXPECT_EQ(Get(0x1c, 4), 0xffff'fffeu);
  Set(0x14, 0xffff'ffff, 4);
  EXPECT_EQ(Get(0x14, 4), 0u);
}

TEST_F(PciConfigSpaceTest, ABarHasNoAddressWhileItIsSized) {
  Set(4, pci_command::kMemory, 2);
  EXPECT_EQ(space_.bars()[0].address, 0u);
  EXPECT_FALSE(space_.bars()[0].decoded);
  Set(0x10, 0xc000'0000, 4);
  EXPECT_EQ(space_.bars()[0].address, 0xc000'0000u);
  EXPECT_TRUE(space_.bars()[0].decoded);
  Set(0x10, 0xffff'ffff, 4);
  EXPECT_EQ(space_.bars()[0].address, std::nullopt);
  EXPECT_FALSE(space_.bars()[0].decoded);
}

TEST_F(PciConfigSpaceTest, EachHalfOfAWideBarMayBeSizedByItself) {
  Set(0x18, 0, 4);
  Set(0x1c, 0x2, 4);
  EXPECT_EQ(space_.bars()[1].address, 0x2'0000'0000u);
  Set(0x18, 0xffff'ffff, 4);
  EXPECT_EQ(space_.bars()[1].address, 0x2'0000'0000u);
  Set(0x18, 0, 4);
  Set(0x1c, 0xffff'ffff, 4);
  EXPECT_EQ(space_.bars()[1].address, std::nullopt);
}

TEST_F(PciConfigSpaceTest, CapabilitiesAreLinkedAndMasked) {
  const std::array<uint8_t, 3> body = {1, 2, 3};
  const std::array<uint8_t, 2> writable = {0, 0xf0};
  const uint8_t first = space_.AddCapability(0x09, body, writable);
  const uint8_t second = space_.AddCapability(0x11, body, {});
  EXPECT_EQ(Get(0x34, 1), first);
  EXPECT_EQ(Get(first + 1u, 1), second);
  EXPECT_EQ(Get(second + 1u, 1), 0u);
  EXPECT_EQ(second % 4, 0);
  Set(first, 0xffff'ffff, 4);
  EXPECT_EQ(Get(first, 4), 0xf2'01'00'09u | static_cast<uint32_t>(second) << 8);
}

TEST_F(PciConfigSpaceTest, ResetPutsBackWhatWasMadeAndPlaced) {
  EXPECT_TRUE(space_.PlaceBar(0, 0xc000'0000).ok());
  Set(4, 0xffff, 2);
  Set(0x10, 0xd000'0000, 4);
  Set(0x1c, 0x6, 4);
  Set(0x3c, 11, 1);
  space_.SetInterruptStatus(true);
  EXPECT_EQ(Get(6, 2), 0x18u);
  space_.Reset();
  EXPECT_EQ(Get(4, 2), 0u);
  EXPECT_EQ(Get(6, 2), 0x10u);
  EXPECT_EQ(space_.bars()[0].address, 0xc000'0000u);
  EXPECT_EQ(space_.bars()[1].address, 0u);
  EXPECT_EQ(Get(0x3c, 1), 0u);
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/aml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"

namespace vmm::aml {
namespace {

std::string Hex(const Term& term) { return absl::BytesToHexString(term); }

TEST(Aml, IntegersTakeTheShortestForm) {
  EXPECT_EQ(Hex(Integer(0)), "00");
  EXPECT_EQ(Hex(Integer(1)), "01");
  EXPECT_EQ(Hex(Integer(2)), "0a02");
  EXPECT_EQ(Hex(Integer(0xFF)), "0aff");
  EXPECT_EQ(Hex(Integer(0x100)), "0b0001");
  EXPECT_EQ(Hex(Integer(0x1'0000)), "0c00000100");
  EXPECT_EQ(Hex(Integer(0x1'0000'0000)), "0e0000000001000000");
}

TEST(Aml, EisaIdsAreCompressed) {
  // ACPI 6.5, 19.3.4: PNP0A03 is the dword 0x030AD041.
  EXPECT_EQ(Hex(EisaId("PNP0A03")), "0c41d00a03");
  EXPECT_EQ(Hex(EisaId("PNP0501")), "0c41d00501");
}

TEST(Aml, NamesArePaddedAndPrefixed) {
  EXPECT_EQ(Name("_S5", Integer(0)), std::string("\x08_S5_\0", 6));
  EXPECT_EQ(Name("\\_SB.PCI0", Integer(1)), "\x08\\\x2E_SB_PCI0\x01");
  EXPECT_EQ(Name("\\_SB.PCI0.X", Integer(1)), "\x08\\\x2F\x03_SB_PCI0X___\x01");
}

TEST(Aml, PackageLengthsCountThemselves) {
  // 1 byte of length + "ABCD" + n; 63 is the most that one byte says.
  EXPECT_EQ(Scope("ABCD", std::string(58, 'x')).substr(0, 2), "\x10\x3F");
  EXPECT_EQ(Hex(Scope("ABCD", std::string(59, 'x')).substr(0, 3)), "104104");  // 65 = 0x041
  // Two bytes reach 4095, three 1 MiB - 1.
  EXPECT_EQ(Hex(Scope("ABCD", std::string(4095 - 6, 'x')).substr(0, 3)), "104fff");
  EXPECT_EQ(Hex(Scope("ABCD", std::string(4095 - 5, 'x')).substr(0, 4)), "10810001");
}

TEST(Aml, MethodsAndRegistersAreThoseOfTheSpecification) {
  EXPECT_EQ(Hex(Method("_EJ0", 1, Store(Integer(2), Path("PEJ")))),
            "140d"
            "5f454a30"
            "01"
            "70"
            "0a02"
            "50454a5f");
  EXPECT_EQ(Hex(IoRegion("HPR", 0x620, 12)),
            "5b80"
            "4850525f"
            "01"
            "0b2006"
            "0a0c");
  EXPECT_EQ(Hex(Registers32("HPR", {"PUP"})),
            "5b81"
            "0b"
            "4850525f"
            "03"
            "5055505f"
            "20");
  EXPECT_EQ(Hex(IfAnyBit(Local(1), 4, Notify("S02", 3))),
            "a00d"
            "7b"
            "61"
            "0a04"
            "00"
            "86"
            "5330325f"
            "0a03");
}

TEST(Aml, ResourceTemplatesEndWithAnEndTag) {
  // Buffer, length 5, size 2, end tag.
  EXPECT_EQ(Hex(ResourceTemplate({})), "11050a027900");
}

TEST(Aml, ResourceDescriptorsAreThoseOfTheSpecification) {
  EXPECT_EQ(Hex(IoPorts(0x3F8, 8)), "4701f803f8030108");
  EXPECT_EQ(Hex(IsaInterrupt(4)), "221000");
  EXPECT_EQ(Hex(Memory32(0xFE00'0000, 0x200)), "86090001000000fe00020000");
  EXPECT_EQ(Hex(Interrupt(20, Trigger::kEdge)), "890600030114000000");
  EXPECT_EQ(Hex(Interrupt(9, Trigger::kLevel)), "890600010109000000");
  EXPECT_EQ(Hex(BusNumbers(0, 0)), "880d00020c0000000000000000000100");
  EXPECT_EQ(Hex(MemoryWindow(0xC000'0000, 0xCFFF'FFFF)),
            "871700000c0100000000000000c0ffffffcf0000000000000010");
}

}  // namespace
}  // namespace vmm::aml

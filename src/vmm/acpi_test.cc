// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/acpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>

#include "src/vmm/layout.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kBase = 0xE'0000;

AcpiMachine TwoCpusAndOneDevice() {
  return {.cpus = 2, .virtio_mmio = {{.address = kVirtioMmioStart, .size = 0x200, .gsi = 20}}};
}

// The tables as a guest finds them.
class Tables {
 public:
  explicit Tables(const AcpiMachine& machine) : bytes_(BuildAcpiTables(machine, kBase)) {}

  template <typename Number>
  Number Get(uint64_t address) const {
    Number value{};
    std::memcpy(&value, &bytes_.at(address - kBase), sizeof(value));
    return value;
  }
  std::string Signature(uint64_t table) const {
    return std::string(reinterpret_cast<const char*>(&bytes_.at(table - kBase)), 4);
  }
  uint8_t Sum(uint64_t address, size_t bytes) const {
    const auto first = bytes_.begin() + static_cast<std::ptrdiff_t>(address - kBase);
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(bytes), uint8_t{0},
                           [](uint8_t sum, std::byte byte) {
                             return static_cast<uint8_t>(sum + std::to_integer<uint8_t>(byte));
                           });
  }
  uint64_t Find(const std::string& signature) const {
    const uint64_t xsdt = Get<uint64_t>(kBase + 24);
    const size_t count = (Get<uint32_t>(xsdt + 4) - 36) / 8;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t table = Get<uint64_t>(xsdt + 36 + 8 * i);
      if (Signature(table) == signature) return table;
    }
    return 0;
  }

 private:
  std::vector<std::byte> bytes_;
};

TEST(Acpi, EveryTableIsReachableAndAddsUpToZero) {
  const Tables tables(TwoCpusAndOneDevice());
  EXPECT_EQ(tables.Signature(kBase), "RSD ");
  EXPECT_EQ(tables.Sum(kBase, 20), 0);
  EXPECT_EQ(tables.Sum(kBase, 36), 0);
  const uint64_t xsdt = tables.Get<uint64_t>(kBase + 24);
  const uint64_t fadt = tables.Find("FACP");
  const uint64_t madt = tables.Find("APIC");
  ASSERT_NE(fadt, 0U);
  ASSERT_NE(madt, 0U);
  const uint64_t dsdt = tables.Get<uint64_t>(fadt + 140);
  EXPECT_EQ(dsdt, tables.Get<uint32_t>(fadt + 40));
  EXPECT_EQ(tables.Signature(dsdt), "DSDT");
  for (uint64_t table : {xsdt, fadt, madt, dsdt}) {
    EXPECT_EQ(tables.Sum(table, tables.Get<uint32_t>(table + 4)), 0) << tables.Signature(table);
  }
  const uint64_t facs = tables.Get<uint32_t>(fadt + 36);
  EXPECT_EQ(tables.Signature(facs), "FACS");
  EXPECT_EQ(facs % 64, 0U);
}

TEST(Acpi, TheMadtListsEachCpu) {
  const auto size = [](uint32_t cpus) {
    const Tables tables({.cpus = cpus});
    return tables.Get<uint32_t>(tables.Find("APIC") + 4);
  };
  EXPECT_EQ(size(5) - size(1), 4 * 8U);
}

// Disassembles with iasl, where it is installed: the specification's own reading of our bytes.
TEST(Acpi, IaslReadsTheDsdtAsItWasMeant) {
  if (std::system("iasl -v >/dev/null 2>&1") != 0) GTEST_SKIP() << "skipped: no iasl";
  char folder[] = "/tmp/vmm-acpi-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/dsdt";
  std::ofstream(path + ".aml") << BuildDsdt(TwoCpusAndOneDevice());
  const std::string command = "iasl -d " + path + ".aml >" + path + ".log 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::stringstream text;
  text << std::ifstream(path + ".dsl").rdbuf();
  for (const char* suffix : {".aml", ".dsl", ".log"}) unlink((path + suffix).c_str());
  rmdir(folder);

  const std::string dsl = text.str();
  EXPECT_THAT(dsl, HasSubstr("Device (PCI0)"));
  EXPECT_THAT(dsl, HasSubstr("EisaId (\"PNP0A03\")"));
  EXPECT_THAT(dsl, HasSubstr("DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed"));
  EXPECT_THAT(dsl, HasSubstr("0xC0000000,         // Range Minimum"));
  EXPECT_THAT(dsl, HasSubstr("WordBusNumber"));
  EXPECT_THAT(dsl, HasSubstr("Device (VR00)"));
  EXPECT_THAT(dsl, HasSubstr("\"LNRO0005\""));
  EXPECT_THAT(dsl, HasSubstr("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"));
  EXPECT_THAT(dsl, HasSubstr("0x00000014"));  // GSI 20
  EXPECT_THAT(dsl, HasSubstr("Name (\\_S5, Package"));
  EXPECT_THAT(dsl, HasSubstr("Device (S1F)"));
  EXPECT_THAT(dsl, HasSubstr("\\_SB.GED.PEJ = 0x80000000"));
  EXPECT_THAT(dsl, HasSubstr("OperationRegion (HPR, SystemIO, 0x0620, 0x0C)"));
  EXPECT_THAT(dsl, HasSubstr("PEJ,    32"));
  EXPECT_THAT(dsl, HasSubstr("Local1 = PDN"));
  EXPECT_THAT(dsl, HasSubstr("If ((Local0 & 0x80000000))"));
  EXPECT_THAT(dsl, HasSubstr("Notify (\\_SB.PCI0.S1F, 0x03)"));
  EXPECT_THAT(dsl, Not(HasSubstr("Unknown")));
}

}  // namespace
}  // namespace vmm

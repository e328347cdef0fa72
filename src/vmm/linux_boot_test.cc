// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/linux_boot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "src/vmm/layout.h"
#include "src/vmm/memory.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;
using Type = E820Entry::Type;

constexpr uint64_t kMiB = 1 << 20;

TEST(E820, LeavesOutThePciHoleAndTheLegacyHole) {
  EXPECT_EQ(BuildE820(256 * kMiB, 0),
            (std::vector<E820Entry>{{0, kLowRamEnd, Type::kRam},
                                    {kLowRamEnd, 0xA'0000 - kLowRamEnd, Type::kReserved},
                                    {0xE'0000, 0x2'0000, Type::kReserved},
                                    {kMiB, 255 * kMiB, Type::kRam}}));
  const std::vector<E820Entry> big = BuildE820(kLowMemoryEnd, 1024 * kMiB);
  EXPECT_EQ(big[3].start + big[3].size, kLowMemoryEnd);
  EXPECT_EQ(big.back(), (E820Entry{kHighMemoryStart, 1024 * kMiB, Type::kRam}));
}

void Put(std::vector<std::byte>& bytes, size_t offset, size_t size, uint64_t value) {
  vhost::StoreLittleEndian(std::span(bytes).subspan(offset, size), value);
}

// The beginning of a bzImage with one setup sector, as a kernel of 2024 has it.
std::vector<std::byte> Image() {
  std::vector<std::byte> image(4096);
  Put(image, 0x1F1, 1, 1);
  Put(image, 0x1FE, 2, 0xAA55);
  Put(image, 0x200, 2, 0x6AEB);  // jmp over a header that ends at 0x26C
  Put(image, 0x202, 4, 0x5372'6448);
  Put(image, 0x206, 2, 0x020F);
  Put(image, 0x211, 1, 1);
  Put(image, 0x22C, 4, 0x7FFF'FFFF);
  Put(image, 0x236, 2, 1);
  Put(image, 0x238, 4, 2047);
  Put(image, 0x258, 8, 16 * kMiB);
  Put(image, 0x260, 4, 8 * kMiB);
  for (size_t i = 1024; i < image.size(); ++i) image[i] = std::byte{0xCC};
  return image;
}

TEST(SetupHeader, IsReadFromABzImage) {
  const absl::StatusOr<SetupHeader> header = ParseSetupHeader(Image());
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->kernel_offset, 1024U);
  EXPECT_EQ(header->load_address, 16 * kMiB);
  EXPECT_EQ(header->init_size, 8 * kMiB);
  EXPECT_EQ(header->command_line_max, 2047U);
  EXPECT_EQ(header->raw.size(), 0x26CU - 0x1F1U);
}

TEST(SetupHeader, WhatIsNotABootableKernelIsRefusedWithTheReason) {
  const struct {
    size_t offset;
    size_t size;
    uint64_t value;
    const char* message;
  } cases[] = {
      {0x1FE, 2, 0, "is not a bzImage"},
      {0x202, 4, 0, "is not a bzImage"},
      {0x206, 2, 0x020B, "boot protocol 2.11 is too old"},
      {0x236, 2, 0, "without a 64-bit entry point"},
      {0x201, 1, 0x10, "setup header that ends at 0x212"},
      {0x201, 1, 0xFF, "setup header that ends at 0x301"},
      {0x258, 8, 0x1000, "wants to be loaded at 0x1000"},
      {0x258, 8, ~uint64_t{0xFFF}, "wants to be loaded at"},
  };
  for (const auto& [offset, size, value, message] : cases) {
    std::vector<std::byte> image = Image();
    Put(image, offset, size, value);
    const absl::StatusOr<SetupHeader> header = ParseSetupHeader(image);
    ASSERT_FALSE(header.ok()) << message;
    EXPECT_THAT(std::string(header.status().message()), HasSubstr(message));
  }
  EXPECT_FALSE(ParseSetupHeader({}).ok());
}

class LinuxBootTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    WriteFile("kernel", Image());
    WriteFile("initrd", std::vector<std::byte>(5000, std::byte{0x77}));
  }
  void TearDown() override {
    unlink(Path("kernel").c_str());
    unlink(Path("initrd").c_str());
    rmdir(folder_.c_str());
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void WriteFile(const std::string& name, const std::vector<std::byte>& bytes) {
    std::ofstream(Path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  uint64_t Guest(uint64_t address, size_t size) {
    std::vector<std::byte> bytes(size);
    EXPECT_TRUE(table_->Read(vhost::GuestAddress{address}, bytes).ok());
    return vhost::LoadLittleEndian(bytes);
  }
  void MakeRam(uint64_t size) {
    ram_ = *Ram::Create(kernel_abi::LinuxKernel(), size, MemoryBackend::kAnonymous);
    table_ = ram_->guest_memory().table();
  }

  std::string folder_ = "/tmp/vmm-boot-XXXXXX";
  std::unique_ptr<Ram> ram_;
  std::shared_ptr<const vhost::MemoryTable> table_;
};

TEST_F(LinuxBootTest, LoadsKernelInitramfsCommandLineAndZeroPage) {
  MakeRam(64 * kMiB);
  auto boot = LinuxBoot::Open(kernel_abi::LinuxKernel(), Path("kernel"), Path("initrd"), "quiet");
  ASSERT_TRUE(boot.ok()) << boot.status();
  const auto entry = boot->Load(*table_, ram_->low_size(), ram_->high_size(), 0xE'0000);
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->rip, 16 * kMiB + 0x200);
  EXPECT_EQ(Guest(16 * kMiB, 4), 0xCCCC'CCCCU);
  const uint64_t zero_page = entry->zero_page;
  EXPECT_EQ(Guest(zero_page + 0x202, 4), 0x5372'6448U);
  EXPECT_EQ(Guest(zero_page + 0x070, 8), 0xE'0000U);
  EXPECT_EQ(Guest(zero_page + 0x1E8, 1), 4U);
  const uint64_t initrd = Guest(zero_page + 0x218, 4);
  EXPECT_EQ(Guest(zero_page + 0x21C, 4), 5000U);
  EXPECT_EQ(initrd, 64 * kMiB - 2 * 4096);
  EXPECT_EQ(Guest(initrd + 4999, 2), 0x0077U);
  EXPECT_EQ(Guest(Guest(zero_page + 0x228, 4), 6), 0x0000'7465'6975'71U);  // "quiet"
  // The page tables map an address of the kernel to itself, in 2 MiB pages.
  const uint64_t pdpt = Guest(kPageTablesAddress, 8) & ~uint64_t{0xFFF};
  const uint64_t directory = Guest(pdpt, 8) & ~uint64_t{0xFFF};
  EXPECT_EQ(Guest(directory + 8 * 8, 8), (16 * kMiB) | 0x83);
}

TEST_F(LinuxBootTest, TooLittleMemoryIsSaidBeforeAnythingRuns) {
  auto boot = LinuxBoot::Open(kernel_abi::LinuxKernel(), Path("kernel"), Path("initrd"), "");
  ASSERT_TRUE(boot.ok());
  MakeRam(20 * kMiB);
  EXPECT_THAT(std::string(boot->Load(*table_, 20 * kMiB, 0, 0).status().message()),
              HasSubstr("kernel: needs 24 MiB of guest memory below 3 GiB, there are 20"));
  MakeRam(24 * kMiB);
  EXPECT_THAT(std::string(boot->Load(*table_, 24 * kMiB, 0, 0).status().message()),
              HasSubstr("initrd: needs 25 MiB"));
}

TEST_F(LinuxBootTest, FilesThatCannotBeUsedAreNamed) {
  auto& kernel = kernel_abi::LinuxKernel();
  EXPECT_THAT(std::string(LinuxBoot::Open(kernel, "/nonexistent", "", "").status().message()),
              HasSubstr("/nonexistent: open: ENOENT"));
  EXPECT_THAT(std::string(LinuxBoot::Open(kernel, folder_, "", "").status().message()),
              HasSubstr("is not a regular file"));
  EXPECT_THAT(
      std::string(
          LinuxBoot::Open(kernel, Path("kernel"), "", std::string(2048, 'x')).status().message()),
      HasSubstr("the kernel command line has 2048 bytes"));
  std::vector<std::byte> cut = Image();
  cut.resize(1100);
  WriteFile("kernel", cut);
  EXPECT_THAT(std::string(LinuxBoot::Open(kernel, Path("kernel"), "", "").status().message()),
              HasSubstr("is cut off"));
}

TEST(Ram, IsSplitAroundThePciHole) {
  // 4 GiB, of which nothing is touched.
  auto ram = Ram::Create(kernel_abi::LinuxKernel(), uint64_t{4} << 30, MemoryBackend::kMemFd);
  ASSERT_TRUE(ram.ok()) << ram.status();
  EXPECT_EQ((*ram)->low_size(), kLowMemoryEnd);
  EXPECT_EQ((*ram)->high_size(), uint64_t{1} << 30);
  const auto table = (*ram)->guest_memory().table();
  ASSERT_EQ(table->regions().size(), 2U);
  EXPECT_EQ(Value(table->regions()[1].start), kHighMemoryStart);
  EXPECT_EQ(table->regions()[1].memfd_offset, kLowMemoryEnd);
  EXPECT_FALSE(table->Translate(vhost::GuestAddress{kLowMemoryEnd}, 1).ok());
}

}  // namespace
}  // namespace vmm

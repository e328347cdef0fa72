// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/memory_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/guest_ram.h"

namespace vhost {
namespace {

using testing::HasSubstr;

// `count` regions that do not touch.
MemoryTable Regions(size_t count) {
  static fakes::GuestRam ram;
  std::vector<MemoryRegion> regions;
  for (size_t i = 0; i < count; ++i) {
    regions.push_back({.start = GuestAddress{i * 0x10000},
                       .size = 4096,
                       .host = ram.region().host + (i % 128) * 8192});
  }
  return *MemoryTable::Create(std::move(regions));
}

TEST(MemoryLimitsTest, AreReadFromTheModule) {
  fakes::FakeKernel kernel({.max_mem_regions = 509, .max_iotlb_entries = 4096});
  const MemoryLimits limits = MemoryLimits::Read(kernel);
  EXPECT_EQ(limits.max_regions, 509u);
  EXPECT_EQ(limits.max_iotlb_entries, 4096u);
}

TEST(MemoryLimitsTest, AreTheModulesDefaultsWithoutSys) {
  fakes::FakeKernel kernel(
      {.open_errors = {{"/sys/module/vhost/parameters/max_mem_regions", ENOENT},
                       {"/sys/module/vhost/parameters/max_iotlb_entries", EACCES}}});
  const MemoryLimits limits = MemoryLimits::Read(kernel);
  EXPECT_EQ(limits.max_regions, 64u);
  EXPECT_EQ(limits.max_iotlb_entries, 2048u);
}

TEST(MemoryLimitsTest, TheMessageSaysHowManyAreNeededAndHowToRaiseTheLimit) {
  const MemoryLimits limits{.max_regions = 64, .max_iotlb_entries = 2048};
  EXPECT_TRUE(limits.Check(Regions(64)).ok());
  const absl::Status status = limits.Check(Regions(65));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("needs 65 regions, and the vhost module takes 64"));
  EXPECT_THAT(status.message(), HasSubstr("options vhost max_mem_regions=65"));
}

TEST(MemoryLimitsTest, RegionsThatWouldBeForgottenSilentlyAreRefused) {
  const MemoryLimits limits{.max_regions = 64, .max_iotlb_entries = 8};
  EXPECT_THAT(limits.Check(Regions(9)).message(), HasSubstr("max_iotlb_entries=9"));
}

TEST(MemoryLimitsTest, NeighboursCountAsOne) {
  fakes::GuestRam ram;
  std::vector<MemoryRegion> pages;
  for (uint64_t i = 0; i < 100; ++i) {
    pages.push_back(
        {.start = GuestAddress{i * 4096}, .size = 4096, .host = ram.region().host + i * 4096});
  }
  const MemoryLimits limits{.max_regions = 1, .max_iotlb_entries = 1};
  EXPECT_TRUE(limits.Check(*MemoryTable::Create(pages)).ok());
}

}  // namespace
}  // namespace vhost

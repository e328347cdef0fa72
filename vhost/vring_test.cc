// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/vring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 16 * 4096;
constexpr uint64_t kGuest = 0x100000;

class VringTest : public ::testing::Test {
 protected:
  VringTest()
      : backing_(static_cast<std::byte*>(std::aligned_alloc(4096, kBytes)), &std::free),
        memory_(*MemoryTable::Create(
            {{.start = GuestAddress{kGuest}, .size = kBytes, .host = backing_.get()}})) {
    std::memset(backing_.get(), 0, kBytes);
  }

  static VringSetup Setup(uint16_t size) {
    return {.size = size,
            .desc = GuestAddress{kGuest},
            .driver = GuestAddress{kGuest + 0x4000},
            .device = GuestAddress{kGuest + 0x5000}};
  }

  std::unique_ptr<std::byte, decltype(&std::free)> backing_;
  MemoryTable memory_;
};

TEST_F(VringTest, KnowsWhereItsPartsAreAndHowLong) {
  const auto vring = Vring::Create(Setup(256), VringLayout::kSplit, memory_);
  ASSERT_TRUE(vring.ok()) << vring.status();
  EXPECT_EQ(vring->desc(), backing_.get());
  EXPECT_EQ(vring->driver(), backing_.get() + 0x4000);
  EXPECT_EQ(vring->device(), backing_.get() + 0x5000);
  EXPECT_EQ(vring->bytes().desc, 4096u);
  EXPECT_EQ(vring->bytes().driver, 6u + 2 * 256);
  EXPECT_EQ(vring->bytes().device, 6u + 8 * 256);
}

TEST_F(VringTest, SaysWhichPartIsWrongAndHow) {
  struct Case {
    const char* message;
    VringLayout layout;
    VringSetup setup;
  };
  std::vector<Case> cases = {
      {"queue size 0 is not a power of two", VringLayout::kSplit, Setup(0)},
      {"queue size 3 is not a power of two", VringLayout::kSplit, Setup(3)},
      {"queue size 65535 is not", VringLayout::kSplit, Setup(65535)},
      {"queue size 40000 is not from 1", VringLayout::kPacked, Setup(40000)},
  };
  auto changed = [&](const char* message, auto change) {
    VringSetup setup = Setup(256);
    change(setup);
    cases.push_back({message, VringLayout::kSplit, setup});
  };
  changed("descriptor table at guest address 0x100008 is not aligned to 16",
          [](VringSetup& s) { s.desc = s.desc + 8; });
  changed("available ring at guest address 0x104001 is not aligned to 2",
          [](VringSetup& s) { s.driver = s.driver + 1; });
  changed("used ring at guest address 0x105002 is not aligned to 4",
          [](VringSetup& s) { s.device = s.device + 2; });
  changed("descriptor table: 4096 bytes", [](VringSetup& s) { s.desc = GuestAddress{0}; });
  changed("available ring: 518 bytes",
          [](VringSetup& s) { s.driver = GuestAddress{kGuest + kBytes - 516}; });
  changed("used ring: 2054 bytes",
          [](VringSetup& s) { s.device = GuestAddress{~uint64_t{0} - 7}; });
  for (const Case& c : cases) {
    const auto vring = Vring::Create(c.setup, c.layout, memory_);
    ASSERT_FALSE(vring.ok()) << c.message;
    EXPECT_THAT(std::string(vring.status().message()), HasSubstr(c.message));
  }
}

TEST_F(VringTest, PackedRingsMayHaveAnySize) {
  const auto vring = Vring::Create(Setup(3), VringLayout::kPacked, memory_);
  ASSERT_TRUE(vring.ok()) << vring.status();
  EXPECT_EQ(vring->bytes().desc, 48u);
  EXPECT_EQ(vring->bytes().driver, 4u);
}

TEST_F(VringTest, CanBeMadeOfHostAddresses) {
  const auto vring = Vring::FromHost(64, backing_.get() + 0x1000, backing_.get() + 0x2000,
                                     backing_.get() + 0x3000, VringLayout::kSplit, memory_);
  ASSERT_TRUE(vring.ok()) << vring.status();
  EXPECT_EQ(vring->setup().device, GuestAddress{kGuest + 0x3000});
  const auto outside = Vring::FromHost(64, backing_.get() + 0x1000, backing_.get() + 0x2000,
                                       backing_.get() + kBytes, VringLayout::kSplit, memory_);
  EXPECT_THAT(std::string(outside.status().message()), HasSubstr("device area: 518 bytes at host"));
}

TEST_F(VringTest, KnowsWhetherItStaysWhereItIsUnderAnotherTable) {
  const auto vring = Vring::Create(Setup(64), VringLayout::kSplit, memory_);
  ASSERT_TRUE(vring.ok());
  EXPECT_TRUE(vring->SamePlaceIn(memory_));
  EXPECT_FALSE(vring->SamePlaceIn(MemoryTable()));
  const auto moved = MemoryTable::Create(
      {{.start = GuestAddress{kGuest}, .size = kBytes - 4096, .host = backing_.get() + 4096}});
  EXPECT_FALSE(vring->SamePlaceIn(*moved));
}

TEST_F(VringTest, ReadsTheIndicesFromTheRing) {
  const auto vring = Vring::Create(Setup(64), VringLayout::kSplit, memory_);
  auto put = [&](std::byte* at, uint16_t value) { std::memcpy(at, &value, sizeof(value)); };
  put(vring->driver(), 1);
  put(vring->driver() + 2, 70);
  put(vring->driver() + 4 + 2 * 64, 69);
  put(vring->device() + 2, 68);
  put(vring->device() + 4 + 8 * 64, 70);
  const VringIndices indices = ReadIndices(*vring);
  EXPECT_EQ(indices.avail_flags, 1);
  EXPECT_EQ(indices.avail, 70);
  EXPECT_EQ(indices.used, 68);
  EXPECT_EQ(indices.used_event, 69);
  EXPECT_EQ(indices.avail_event, 70);
}

TEST_F(VringTest, ReadsWhereTheServerOfAPackedRingStands) {
  const auto vring = Vring::Create(Setup(64), VringLayout::kPacked, memory_);
  ASSERT_TRUE(vring.ok());
  const auto put = [&](std::byte* at, uint16_t value) { std::memcpy(at, &value, sizeof(value)); };
  put(vring->driver(), 0x8003);
  put(vring->driver() + 2, 2);
  put(vring->device(), 4);
  put(vring->device() + 2, 1);
  // In its second round, while what was taken began in the first.
  const PackedPositions at = ReadPositions(*vring, 0x803e'0002, 7);
  EXPECT_EQ(at.avail, 2);
  EXPECT_FALSE(at.avail_wrap);
  EXPECT_EQ(at.used, 62);
  EXPECT_TRUE(at.used_wrap);
  EXPECT_EQ(at.taken, 4);
  EXPECT_EQ(at.returned, 7u);
  EXPECT_EQ(at.driver_event, 0x8003);
  EXPECT_EQ(at.driver_flags, 2);
  EXPECT_EQ(at.device_event, 4);
  EXPECT_EQ(at.device_flags, 1);
  EXPECT_FALSE(at.waiting);
  put(vring->desc() + 16 * 2 + 14, 1 << 15);  // The driver's wrap counter is 0 there.
  EXPECT_TRUE(ReadPositions(*vring, 0x803e'0002, 7).waiting);
  // A base that is none is read, and nothing else.
  EXPECT_EQ(ReadPositions(*vring, 0x7fff'7fff, 0).taken, 0);
}

}  // namespace
}  // namespace vhost

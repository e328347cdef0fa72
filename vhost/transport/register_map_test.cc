// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/register_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

namespace vhost {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

// A byte at 0, a gap, two bytes at 2, four at 4.
constexpr Register kMap[] = {{0, 1}, {2, 2}, {4, 4}};

uint64_t Value(uint32_t offset) { return offset == 0 ? 0x11 : offset == 2 ? 0x3322 : 0x77665544; }

uint64_t Read(uint64_t offset, size_t size) {
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{0xee});
  ReadRegisters(kMap, offset, std::span(bytes).first(size), Value);
  return LoadLittleEndian(std::span(bytes).first(size));
}

std::vector<std::pair<uint32_t, uint64_t>> Write(uint64_t offset, uint64_t value, size_t size) {
  std::array<std::byte, 8> bytes;
  StoreLittleEndian(bytes, value);
  std::vector<std::pair<uint32_t, uint64_t>> writes;
  WriteRegisters(kMap, offset, std::span(bytes).first(size), Value,
                 [&writes](uint32_t at, uint64_t written) { writes.emplace_back(at, written); });
  return writes;
}

TEST(RegisterMapTest, ReadsGiveTheBytesOfWhateverIsThere) {
  EXPECT_EQ(Read(0, 8), 0x7766554433220011u);
  EXPECT_EQ(Read(2, 2), 0x3322u);
  EXPECT_EQ(Read(3, 2), 0x4433u);
  EXPECT_EQ(Read(1, 1), 0u);
  EXPECT_EQ(Read(6, 8), 0x7766u);
  EXPECT_EQ(Read(100, 4), 0u);
  EXPECT_EQ(Read(~uint64_t{0} - 1, 1), 0u);
}

TEST(RegisterMapTest, AWriteOfAWholeRegisterIsThatRegister) {
  EXPECT_THAT(Write(2, 0xabcd, 2), ElementsAre(Pair(2, 0xabcd)));
  EXPECT_THAT(Write(4, 0x12345678, 4), ElementsAre(Pair(4, 0x12345678)));
}

TEST(RegisterMapTest, APartialWriteKeepsTheOtherBytes) {
  EXPECT_THAT(Write(3, 0xab, 1), ElementsAre(Pair(2, 0xab22)));
  EXPECT_THAT(Write(5, 0xabcd, 2), ElementsAre(Pair(4, 0x77abcd44)));
}

TEST(RegisterMapTest, AWriteAcrossRegistersReachesEachLowestFirst) {
  EXPECT_THAT(Write(0, 0x8877665544332211, 8),
              ElementsAre(Pair(0, 0x11), Pair(2, 0x4433), Pair(4, 0x88776655)));
  EXPECT_THAT(Write(3, 0xaabb, 2), ElementsAre(Pair(2, 0xbb22), Pair(4, 0x776655aa)));
  EXPECT_THAT(Write(1, 0xff, 1), IsEmpty());
  EXPECT_THAT(Write(8, 0xff, 8), IsEmpty());
}

}  // namespace
}  // namespace vhost

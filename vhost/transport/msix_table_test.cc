// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/msix_table.h"

#include <gtest/gtest.h>

#include <array>

#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

constexpr uint16_t kVectors = 70;

std::optional<uint16_t> Write(MsixTable& table, uint64_t offset, uint64_t value, size_t size) {
  std::array<std::byte, 16> bytes{};
  StoreLittleEndian(bytes, value);
  return table.Write(offset, std::span(bytes).first(size));
}

uint64_t Read(const MsixTable& table, uint64_t offset, size_t size) {
  std::array<std::byte, 8> bytes{};
  table.Read(offset, std::span(bytes).first(size));
  return LoadLittleEndian(std::span(bytes).first(size));
}

TEST(MsixTableTest, VectorsComeMasked) {
  MsixTable table(kVectors);
  table.set_control(MsixTable::kEnable);
  for (uint16_t vector = 0; vector < kVectors; ++vector) EXPECT_FALSE(table.Sends(vector));
  EXPECT_EQ(Read(table, 12, 4), 1u);
}

TEST(MsixTableTest, AVectorSendsWhenItIsUnmaskedAndTheFunctionIsOn) {
  MsixTable table(kVectors);
  EXPECT_EQ(Write(table, 3 * 16 + 12, 0, 4), 3);
  EXPECT_FALSE(table.Sends(3));
  EXPECT_TRUE(table.set_control(MsixTable::kEnable));
  EXPECT_FALSE(table.set_control(MsixTable::kEnable));
  EXPECT_TRUE(table.Sends(3));
  EXPECT_FALSE(table.Sends(4));
  EXPECT_FALSE(table.Sends(kVectors));
  EXPECT_FALSE(table.Sends(kNoVector));
  table.set_control(MsixTable::kEnable | MsixTable::kFunctionMask);
  EXPECT_FALSE(table.Sends(3));
}

TEST(MsixTableTest, EntriesTakeDwordsAndQuadwords) {
  MsixTable table(kVectors);
  EXPECT_EQ(Write(table, 16, 0x1'fee0'0000, 8), 1);
  EXPECT_EQ(Write(table, 24, 0x31, 8), 1);  // data, and the mask bit cleared
  EXPECT_EQ(table.message(1), (MsixTable::Message{.address = 0x1'fee0'0000, .data = 0x31}));
  EXPECT_EQ(Read(table, 28, 4), 0u);
  EXPECT_EQ(Write(table, 28, 0xffff'ffff, 4), 1);
  EXPECT_EQ(Read(table, 28, 4), 1u);  // the rest is reserved
  EXPECT_EQ(Read(table, 18, 4), 0x0001'fee0u);
}

TEST(MsixTableTest, WritesThatSoftwareMayNotMakeAreDropped) {
  MsixTable table(kVectors);
  for (const auto& [offset, size] : std::vector<std::pair<uint64_t, size_t>>{
           {0, 1}, {0, 2}, {2, 4}, {4, 8}, {0, 16}, {0, 0}, {kVectors * 16, 4}, {~0ull - 3, 4}}) {
    EXPECT_EQ(Write(table, offset, ~uint64_t{0}, size), std::nullopt) << offset << " " << size;
  }
  EXPECT_EQ(Read(table, 0, 8), 0u);
}

TEST(MsixTableTest, PendingBitsAreAskedForOneByOne) {
  MsixTable table(kVectors);
  const auto pending = [](uint16_t vector) { return vector == 1 || vector == 65; };
  std::array<std::byte, 24> bytes{};
  table.ReadPending(0, bytes, pending);
  EXPECT_EQ(LoadLittleEndian(std::span(bytes).first(8)), 0x2u);
  EXPECT_EQ(LoadLittleEndian(std::span(bytes).subspan(8, 8)), 0x2u);
  EXPECT_EQ(LoadLittleEndian(std::span(bytes).subspan(16, 8)), 0u);
  EXPECT_EQ(table.pending_bytes(), 16u);
}

}  // namespace
}  // namespace vhost

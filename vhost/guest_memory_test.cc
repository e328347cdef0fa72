// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/guest_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kPage = 4096;

// A page-aligned stretch of this process to play guest memory.
struct Backing {
  explicit Backing(uint64_t pages)
      : bytes(pages * kPage),
        data(static_cast<std::byte*>(std::aligned_alloc(kPage, bytes)), &std::free) {
    std::fill_n(data.get(), bytes, std::byte{0});
  }
  MemoryRegion At(uint64_t guest, uint64_t first_page, uint64_t pages) const {
    return {.start = GuestAddress{guest},
            .size = pages * kPage,
            .host = data.get() + first_page * kPage};
  }
  uint64_t bytes;
  std::unique_ptr<std::byte, decltype(&std::free)> data;
};

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(MemoryTable, JoinsNeighboursThatGoOnInGuestAndHost) {
  Backing backing(8);
  const auto table = MemoryTable::Create(
      {backing.At(2 * kPage, 2, 2), backing.At(0, 0, 2), backing.At(0x100000, 4, 1)});
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->regions().size(), 3u);
  ASSERT_EQ(table->merged().size(), 2u);
  EXPECT_EQ(table->merged()[0].size, 4 * kPage);
}

TEST(MemoryTable, KeepsNeighboursApartWhoseHostMappingHasASeam) {
  Backing backing(8);
  const auto table = MemoryTable::Create({backing.At(0, 0, 2), backing.At(2 * kPage, 3, 2)});
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->merged().size(), 2u);
}

TEST(MemoryTable, KeepsNeighboursOfDifferentMemfdsApart) {
  Backing backing(4);
  MemoryRegion first = backing.At(0, 0, 2);
  MemoryRegion second = backing.At(2 * kPage, 2, 2);
  first.memfd = 3;
  second.memfd = 4;
  second.memfd_offset = 2 * kPage;
  EXPECT_EQ(MemoryTable::Create({first, second})->merged().size(), 2u);
  second.memfd = 3;
  EXPECT_EQ(MemoryTable::Create({first, second})->merged().size(), 1u);
}

TEST(MemoryTable, RefusesWhatVhostWouldTakeWithoutAWord) {
  Backing backing(4);
  struct Case {
    const char* message;
    std::vector<MemoryRegion> regions;
  };
  MemoryRegion empty = backing.At(0, 0, 1);
  empty.size = 0;
  MemoryRegion wraps = backing.At(~uint64_t{0} - kPage + 1, 0, 2);
  MemoryRegion no_host = backing.At(0, 0, 1);
  no_host.host = nullptr;
  MemoryRegion crooked = backing.At(0, 0, 1);
  crooked.start = GuestAddress{8};
  const Case cases[] = {
      {"is empty", {empty}},
      {"wraps around", {wraps}},
      {"has no host mapping", {no_host}},
      {"is not aligned to 4096", {crooked}},
      {"overlaps", {backing.At(0, 0, 2), backing.At(kPage, 2, 1)}},
      {"overlaps", {backing.At(0, 0, 1), backing.At(0, 1, 1)}},
  };
  for (const Case& c : cases) {
    const auto table = MemoryTable::Create(c.regions);
    EXPECT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(Message(table.status()), HasSubstr(c.message));
  }
}

TEST(MemoryTable, TranslatesOnlyWhatLiesInOneRegion) {
  Backing backing(8);
  const auto table = MemoryTable::Create({backing.At(0, 0, 2), backing.At(2 * kPage, 4, 2)});
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->Translate(GuestAddress{kPage}, kPage).value(), backing.data.get() + kPage);
  for (const auto& [address, length] : {std::pair<uint64_t, uint64_t>{kPage, kPage + 1},
                                        {4 * kPage, 1},
                                        {0, 0},
                                        {~uint64_t{0}, 2},
                                        {0, ~uint64_t{0}}}) {
    EXPECT_EQ(table->Translate(GuestAddress{address}, length).status().code(),
              absl::StatusCode::kOutOfRange)
        << address << " " << length;
  }
}

TEST(MemoryTable, CopiesAcrossASeamAndNothingWhenTheRangeHasAHole) {
  Backing backing(8);
  const auto table = MemoryTable::Create({backing.At(0, 0, 1), backing.At(kPage, 4, 1)});
  ASSERT_TRUE(table.ok());
  std::array<std::byte, 8> bytes;
  bytes.fill(std::byte{0x5a});
  ASSERT_TRUE(table->Write(GuestAddress{kPage - 4}, bytes).ok());
  EXPECT_EQ(backing.data.get()[kPage - 1], std::byte{0x5a});
  EXPECT_EQ(backing.data.get()[4 * kPage], std::byte{0x5a});
  std::array<std::byte, 8> read{};
  ASSERT_TRUE(table->Read(GuestAddress{kPage - 4}, read).ok());
  EXPECT_EQ(read, bytes);

  bytes.fill(std::byte{0x77});
  EXPECT_FALSE(table->Write(GuestAddress{2 * kPage - 4}, bytes).ok());
  EXPECT_EQ(backing.data.get()[5 * kPage - 1], std::byte{0});
  EXPECT_FALSE(table->Read(GuestAddress{~uint64_t{0} - 1}, read).ok());
}

TEST(MemoryTable, ContainsWhatLiesInAdjacentRegions) {
  Backing backing(8);
  const auto table = MemoryTable::Create({backing.At(0, 0, 1), backing.At(kPage, 4, 1)});
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE(table->Contains(GuestAddress{kPage - 4}, 8));
  EXPECT_TRUE(table->Contains(GuestAddress{0}, 2 * kPage));
  EXPECT_FALSE(table->Contains(GuestAddress{0}, 2 * kPage + 1));
  EXPECT_FALSE(table->Contains(GuestAddress{0}, 0));
  EXPECT_FALSE(table->Contains(GuestAddress{~uint64_t{0}}, 2));
}

TEST(MemoryTable, TranslatesHostAddressesBack) {
  Backing backing(4);
  const auto table = MemoryTable::Create({backing.At(0x10000, 0, 2)});
  EXPECT_EQ(table->TranslateBack(backing.data.get() + 16, 16).value(), GuestAddress{0x10010});
  EXPECT_FALSE(table->TranslateBack(backing.data.get() + 2 * kPage - 1, 2).ok());
  EXPECT_FALSE(table->TranslateBack(backing.data.get() + 2 * kPage, 1).ok());
}

// Follows the memory and can be told to refuse.
class Follower : public MemoryListener {
 public:
  absl::Status CheckMemory(const MemoryTable& table) const override {
    return table.merged().size() > limit ? absl::ResourceExhaustedError("too many regions")
                                         : absl::OkStatus();
  }
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& table) override {
    ++calls;
    if (refuse_next) {
      refuse_next = false;
      return absl::InternalError("refused");
    }
    current = table;
    return absl::OkStatus();
  }
  size_t limit = 64;
  bool refuse_next = false;
  int calls = 0;
  std::shared_ptr<const MemoryTable> current;
};

TEST(GuestMemory, ATransactionReachesEachListenerOnce) {
  Backing backing(8);
  GuestMemory memory;
  Follower follower;
  ASSERT_TRUE(memory.AddListener(&follower).ok());
  follower.calls = 0;
  const MemoryRegion regions[] = {backing.At(0, 0, 1), backing.At(0x100000, 1, 1)};
  ASSERT_TRUE(memory.Change(regions, {}).ok());
  EXPECT_EQ(follower.calls, 1);
  EXPECT_EQ(follower.current, memory.table());
  EXPECT_EQ(memory.table()->regions().size(), 2u);

  const MemoryRegion added = backing.At(0x200000, 2, 1);
  const GuestMemory::Range removed{GuestAddress{0}, kPage};
  ASSERT_TRUE(memory.Change({&added, 1}, {&removed, 1}).ok());
  EXPECT_EQ(follower.calls, 2);
  EXPECT_FALSE(memory.table()->Translate(GuestAddress{0}, 1).ok());
  EXPECT_TRUE(memory.table()->Translate(GuestAddress{0x200000}, 1).ok());
}

TEST(GuestMemory, AChangeThatOneListenerCannotTakeChangesNothing) {
  Backing backing(8);
  GuestMemory memory;
  Follower first, second;
  ASSERT_TRUE(memory.AddListener(&first).ok());
  ASSERT_TRUE(memory.AddListener(&second).ok());
  const auto before = memory.table();

  second.refuse_next = true;
  EXPECT_FALSE(memory.Add(backing.At(0, 0, 1)).ok());
  EXPECT_EQ(memory.table(), before);
  EXPECT_EQ(first.current, before);
  EXPECT_EQ(second.current, before);

  second.limit = 0;
  first.calls = 0;
  EXPECT_EQ(memory.Add(backing.At(0, 0, 1)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(first.calls, 0);
}

TEST(GuestMemory, RefusesToRemoveWhatIsNotAWholeRegion) {
  Backing backing(4);
  GuestMemory memory;
  ASSERT_TRUE(memory.Add(backing.At(0, 0, 2)).ok());
  EXPECT_EQ(memory.Remove(GuestAddress{0}, kPage).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(memory.Remove(GuestAddress{0}, 2 * kPage).ok());
}

TEST(GuestMemory, AListenerThatWasRemovedHearsNothingMore) {
  Backing backing(4);
  GuestMemory memory;
  Follower follower;
  ASSERT_TRUE(memory.AddListener(&follower).ok());
  memory.RemoveListener(&follower);
  follower.calls = 0;
  ASSERT_TRUE(memory.Add(backing.At(0, 0, 1)).ok());
  EXPECT_EQ(follower.calls, 0);
}

}  // namespace
}  // namespace vhost

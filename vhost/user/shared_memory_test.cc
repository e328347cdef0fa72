// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace vhost::user {
namespace {

using kernel_abi::LinuxKernel;
using kernel_abi::UniqueFd;

constexpr uint64_t kPage = 4096;

UniqueFd Memory(uint64_t bytes) {
  UniqueFd fd(memfd_create("shared-memory-test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  return fd;
}

absl::StatusOr<SharedMemory> Share(std::vector<SharedRegion> regions, uint64_t file_bytes) {
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < regions.size(); ++i) fds.push_back(Memory(file_bytes));
  return SharedMemory::Create(LinuxKernel(), regions, std::move(fds));
}

// Maps of this process that show the test's files.
int Maps() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("shared-memory-test") != std::string::npos) ++count;
  }
  return count;
}

TEST(SharedMemoryTest, BothKindsOfAddressLeadToTheSameBytes) {
  UniqueFd fd = Memory(4 * kPage);
  ASSERT_EQ(pwrite(fd.get(), "here", 4, kPage + 16), 4);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(fd));
  const SharedRegion region{.guest_address = 0x10000,
                            .size = 2 * kPage,
                            .user_address = 0x7f00'0123'0000,
                            .offset = kPage};
  const auto memory = SharedMemory::Create(LinuxKernel(), {&region, 1}, std::move(fds));
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto by_user = memory->Translate(0x7f00'0123'0010, 4);
  const auto by_guest = memory->table()->Translate(GuestAddress{0x10010}, 4);
  ASSERT_TRUE(by_user.ok() && by_guest.ok());
  EXPECT_EQ(*by_user, *by_guest);
  EXPECT_EQ(memcmp(*by_user, "here", 4), 0);
  EXPECT_FALSE(memory->Translate(0x7f00'0123'0000 + 2 * kPage - 2, 4).ok());
  EXPECT_FALSE(memory->Translate(0x7f00'0122'ffff, 4).ok());
  EXPECT_FALSE(memory->Translate(0x7f00'0123'0000, 0).ok());
  EXPECT_FALSE(memory->Translate(0x7f00'0123'0000, ~uint64_t{0}).ok());
}

TEST(SharedMemoryTest, LiesAboutARegionAreRefused) {
  const SharedRegion good{.guest_address = 0, .size = kPage, .user_address = 0x1000, .offset = 0};
  EXPECT_TRUE(Share({good}, kPage).ok());
  const auto with = [&good](auto change) {
    SharedRegion region = good;
    change(region);
    return Share({region}, kPage).status().code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(with([](SharedRegion& it) { it.size = 0; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.size = 2 * kPage; }), kBad) << "beyond the file";
  EXPECT_EQ(with([](SharedRegion& it) { it.offset = kPage; }), kBad) << "beyond the file";
  EXPECT_EQ(with([](SharedRegion& it) { it.size = 100; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.guest_address = 1; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.offset = 1; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.guest_address = ~uint64_t{0} << 12; }),
            absl::StatusCode::kOk);
  EXPECT_EQ(with([](SharedRegion& it) { it.size = ~uint64_t{0} << 12; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.offset = ~uint64_t{0} << 12; }), kBad);
  EXPECT_EQ(with([](SharedRegion& it) { it.user_address = ~uint64_t{0} - 100; }), kBad);
  EXPECT_EQ(Maps(), 0);
}

TEST(SharedMemoryTest, RegionsThatOverlapInEitherAddressAreRefused) {
  const SharedRegion a{.guest_address = 0, .size = 2 * kPage, .user_address = 0, .offset = 0};
  SharedRegion b = a;
  b.guest_address = b.user_address = 1 << 20;
  EXPECT_TRUE(Share({a, b}, 2 * kPage).ok());
  b.user_address = kPage;
  EXPECT_FALSE(Share({a, b}, 2 * kPage).ok());
  b.user_address = 1 << 20;
  b.guest_address = kPage;
  EXPECT_FALSE(Share({a, b}, 2 * kPage).ok());
  EXPECT_EQ(Maps(), 0);
}

TEST(SharedMemoryTest, WhatIsNoMemoryIsRefused) {
  const SharedRegion region{.guest_address = 0, .size = kPage, .user_address = 0, .offset = 0};
  for (const char* path : {"/dev/zero", "/dev/null", "/proc/self/mem", "/"}) {
    std::vector<UniqueFd> fds;
    fds.emplace_back(open(path, O_RDONLY | O_CLOEXEC));
    EXPECT_FALSE(SharedMemory::Create(LinuxKernel(), {&region, 1}, std::move(fds)).ok()) << path;
  }
  const UniqueFd memory = Memory(kPage);
  const std::string path = "/proc/self/fd/" + std::to_string(memory.get());
  std::vector<UniqueFd> fds;
  fds.emplace_back(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(SharedMemory::Create(LinuxKernel(), {&region, 1}, std::move(fds)).ok())
      << "not to be written";
  EXPECT_FALSE(SharedMemory::Create(LinuxKernel(), {&region, 1}, {}).ok()) << "without an fd";
}

TEST(SharedMemoryTest, AMappingEndsWithTheLastSetThatHasIt) {
  const SharedRegion a{.guest_address = 0, .size = kPage, .user_address = 0, .offset = 0};
  SharedRegion b = a;
  b.guest_address = b.user_address = 1 << 20;
  auto one = Share({a}, kPage);
  ASSERT_TRUE(one.ok());
  auto two = one->With(LinuxKernel(), b, Memory(kPage));
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(*one->Translate(0, 1), *two->Translate(0, 1)) << "mapped once";
  EXPECT_EQ(Maps(), 2);
  *one = SharedMemory();
  EXPECT_EQ(Maps(), 2);
  auto three = two->Without(a);
  ASSERT_TRUE(three.ok());
  *two = SharedMemory();
  EXPECT_EQ(Maps(), 1);
  EXPECT_FALSE(three->Translate(0, 1).ok());
  EXPECT_EQ(three->Without(a).status().code(), absl::StatusCode::kNotFound);
  *three = SharedMemory();
  EXPECT_EQ(Maps(), 0);
}

TEST(SharedMemoryTest, ThereIsAMostNumberOfRegions) {
  SharedMemory memory;
  for (size_t i = 0; i < SharedMemory::kMostRegions; ++i) {
    const uint64_t at = i * 2 * kPage;
    auto next = memory.With(LinuxKernel(),
                            {.guest_address = at, .size = kPage, .user_address = at, .offset = 0},
                            Memory(kPage));
    ASSERT_TRUE(next.ok()) << i << " " << next.status();
    memory = *std::move(next);
  }
  const SharedRegion more{
      .guest_address = 1 << 30, .size = kPage, .user_address = 1 << 30, .offset = 0};
  EXPECT_EQ(memory.With(LinuxKernel(), more, Memory(kPage)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace vhost::user

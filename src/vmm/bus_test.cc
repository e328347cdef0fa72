// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/bus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

// Answers with the offset; remembers the last write.
class Echo final : public BusDevice {
 public:
  void Read(uint64_t offset, std::span<std::byte> data) override {
    vhost::StoreLittleEndian(data, offset);
  }
  void Write(uint64_t offset, std::span<const std::byte> data) override {
    written_offset = offset;
    written = vhost::LoadLittleEndian(data);
  }
  uint64_t written_offset = 0;
  uint64_t written = 0;
};

uint64_t Read(Bus& bus, uint64_t address, size_t size = 1) {
  std::array<std::byte, 8> data{};
  bus.Read(address, std::span(data).first(size));
  return vhost::LoadLittleEndian(data);
}

TEST(Bus, AccessesReachTheirDeviceAtTheirOffset) {
  Bus bus;
  Echo echo;
  ASSERT_TRUE(bus.Insert("echo", 0x1000, 0x100, echo).ok());
  EXPECT_EQ(Read(bus, 0x1000), 0U);
  EXPECT_EQ(Read(bus, 0x10FF), 0xFFU);
  const std::array data = {std::byte{0x34}, std::byte{0x12}};
  EXPECT_TRUE(bus.Write(0x1010, data));
  EXPECT_EQ(echo.written_offset, 0x10U);
  EXPECT_EQ(echo.written, 0x1234U);
}

TEST(Bus, NobodyAnswersWithAllOnes) {
  Bus bus;
  Echo echo;
  ASSERT_TRUE(bus.Insert("echo", 0x1000, 0x100, echo).ok());
  EXPECT_EQ(Read(bus, 0xFFF), 0xFFU);
  EXPECT_EQ(Read(bus, 0x1100, 4), 0xFFFF'FFFFU);
  EXPECT_FALSE(bus.Write(0x1100, std::array{std::byte{1}}));
}

TEST(Bus, AnAccessOverTheEndOfARangeIsNobodys) {
  Bus bus;
  Echo first;
  Echo second;
  ASSERT_TRUE(bus.Insert("first", 0x1000, 4, first).ok());
  ASSERT_TRUE(bus.Insert("second", 0x1004, 4, second).ok());
  EXPECT_EQ(Read(bus, 0x1002, 4), 0xFFFF'FFFFU);
}

TEST(Bus, OverlapsAreRefusedByName) {
  Bus bus;
  Echo echo;
  ASSERT_TRUE(bus.Insert("first", 0x1000, 0x100, echo).ok());
  for (const auto& [base, size] : {std::pair<uint64_t, uint64_t>{0x1000, 0x100},
                                   {0xFFF, 2},
                                   {0x10FF, 1},
                                   {0x1080, 0x1000},
                                   {0, 0x10000}}) {
    const absl::Status status = bus.Insert("second", base, size, echo);
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << base;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("overlaps first at 0x1000"));
  }
  EXPECT_TRUE(bus.Insert("before", 0xFF0, 0x10, echo).ok());
  EXPECT_TRUE(bus.Insert("after", 0x1100, 0x10, echo).ok());
}

TEST(Bus, RangesThatWrapOrAreEmptyAreRefused) {
  Bus bus;
  Echo echo;
  EXPECT_FALSE(bus.Insert("empty", 0x1000, 0, echo).ok());
  EXPECT_FALSE(bus.Insert("wraps", ~uint64_t{0} - 1, 16, echo).ok());
}

TEST(Bus, WhatWasRemovedAnswersNoMore) {
  Bus bus;
  Echo echo;
  ASSERT_TRUE(bus.Insert("echo", 0x1000, 0x100, echo).ok());
  bus.Remove(0x1000);
  EXPECT_EQ(Read(bus, 0x1000), 0xFFU);
  EXPECT_TRUE(bus.Insert("again", 0x1080, 0x100, echo).ok());
}

TEST(Bus, CallsThatWereUnderWayAreWaitedFor) {
  class Slow final : public BusDevice {
   public:
    void Read(uint64_t, std::span<std::byte>) override {
      begun.Notify();
      may_end.WaitForNotification();
      is_over = true;
    }
    void Write(uint64_t, std::span<const std::byte>) override {}
    absl::Notification begun, may_end;
    std::atomic<bool> is_over = false;
  };
  Slow device;
  Bus bus;
  ASSERT_TRUE(bus.Insert("slow", 0, 8, device).ok());
  std::thread guest([&] {
    std::array<std::byte, 4> data{};
    bus.Read(0, data);
  });
  device.begun.WaitForNotification();
  bus.Remove(0);
  std::thread owner([&] {
    bus.WaitForCalls();
    EXPECT_TRUE(device.is_over);
  });
  device.may_end.Notify();
  guest.join();
  owner.join();
}

}  // namespace
}  // namespace vmm

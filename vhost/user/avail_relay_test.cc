// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/user/avail_relay.h"

#include <poll.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"

namespace vhost::user {
namespace {

using fakes::DriverRing;
using fakes::GuestRam;
using kernel_abi::EventFd;

constexpr uint16_t kSize = 8;

// The driver's ring, and a back end that reads ours.
class AvailRelayTest : public testing::Test {
 protected:
  AvailRelayTest()
      : kick_(*EventFd::Create(kernel_)),
        error_(*EventFd::Create(kernel_)),
        relay_(*AvailRelay::Create(kernel_, 2, {error_.get(), error_.get()})),
        memory_(*relay_->WithRings(*ram_.table())) {
    given_.vring = *Vring::Create(ring_.setup(), VringLayout::kSplit, *ram_.table());
    given_.kick_fd = kick_.get();
    relay_->Add(given_);
    ours_ = relay_->ForBackEnd(given_, *memory_).value();
  }

  static bool Await(int fd) {
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    return poll(&entry, 1, 60'000) == 1;
  }
  uint16_t OurIndex() const { return At(ours_->vring.driver(), 1); }
  uint16_t OurEntry(uint16_t index) const { return At(ours_->vring.driver(), 2 + index % kSize); }
  // Words that the relay's thread looks at as well.
  static std::atomic_ref<uint16_t> Word(std::byte* words, size_t index) {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(words + 2 * index));
  }
  static uint16_t At(std::byte* words, size_t index) { return Word(words, index).load(); }
  void Use(uint16_t head) {
    const kernel_abi::VirtqUsedElem element{.id = head, .len = 0};
    std::byte* ring = given_.vring.device();
    memcpy(ring + 4 + 8 * (used_ % kSize), &element, sizeof(element));
    Word(ring, 1).store(++used_);
  }
  uint16_t Request() { return ring_.Chain().Readable("request").Publish(); }
  void KickAndAwait(uint16_t index) {
    kick_.Signal();
    ASSERT_TRUE(Await(ours_->kick_fd));
    EventFd::DrainEventFd(kernel_, ours_->kick_fd);
    ASSERT_EQ(OurIndex(), index);
  }

  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  GuestRam ram_{GuestRam::kDefaultBytes, GuestRam::kDefaultStart, /*shared=*/true};
  DriverRing ring_{ram_, {.size = kSize}};
  BackendVring given_{.queue = 0,
                      .vring = *Vring::Create(ring_.setup(), VringLayout::kSplit, *ram_.table())};
  EventFd kick_;
  EventFd error_;
  std::unique_ptr<AvailRelay> relay_;
  std::shared_ptr<const MemoryTable> memory_;
  std::optional<BackendVring> ours_;
  uint16_t used_ = 0;
};

TEST_F(AvailRelayTest, WhatTheDriverMakesAvailableIsInOurRing) {
  EXPECT_NE(ours_->vring.driver(), given_.vring.driver());
  EXPECT_EQ(ours_->vring.desc(), given_.vring.desc());
  EXPECT_EQ(ours_->vring.device(), given_.vring.device());
  const uint16_t first = Request();
  const uint16_t second = Request();
  KickAndAwait(2);
  EXPECT_EQ(OurEntry(0), first);
  EXPECT_EQ(OurEntry(1), second);
  EXPECT_EQ(At(given_.vring.device() + 4 + 8 * kSize, 0), 2);  // avail_event: kick me at the next
}

TEST_F(AvailRelayTest, WhatIsInFlightIsLaidAnewInTheDriversOrder) {
  std::vector<uint16_t> heads;
  for (int i = 0; i < 4; ++i) heads.push_back(Request());
  KickAndAwait(4);
  Use(heads[2]);
  Use(heads[0]);
  EXPECT_EQ(relay_->Rewind(0).value(), 2U);
  EXPECT_EQ(OurIndex(), 4);
  EXPECT_EQ(OurEntry(2), heads[1]);
  EXPECT_EQ(OurEntry(3), heads[3]);
  // And once more, with heads that were used and are in flight again.
  while (ring_.TakeUsed().has_value()) {
  }
  const uint16_t again = Request();
  KickAndAwait(5);
  Use(heads[3]);
  EXPECT_EQ(relay_->Rewind(0).value(), 3U);
  EXPECT_EQ(OurEntry(3), heads[1]);
  EXPECT_EQ(OurEntry(4), again);
}

TEST_F(AvailRelayTest, ManyRoundsGoThrough) {
  for (uint32_t i = 1; i <= 3 * 65536 / 64; ++i) {
    const uint16_t head = Request();
    KickAndAwait(static_cast<uint16_t>(i));
    Use(head);
    ASSERT_TRUE(ring_.TakeUsed().has_value());
  }
  EXPECT_EQ(relay_->Rewind(0).value(), used_);
}

TEST_F(AvailRelayTest, ADriverThatLiesBreaksItsRing) {
  Word(given_.vring.driver(), 1).store(kSize + 1);  // more than there can be
  kick_.Signal();
  EXPECT_TRUE(Await(error_.get()));
}

TEST_F(AvailRelayTest, AHeadThatIsNoneOrInFlightAlreadyBreaksTheRing) {
  for (const uint16_t second : {uint16_t{3}, uint16_t{kSize}, uint16_t{0xffff}}) {
    std::byte* avail = given_.vring.driver();
    Word(avail, 2).store(3);
    Word(avail, 3).store(second);
    Word(avail, 1).store(2);
    relay_->Add(given_);
    kick_.Signal();
    EXPECT_TRUE(Await(error_.get())) << second;
    error_.Drain();
    relay_->Remove(0);
  }
}

TEST_F(AvailRelayTest, ABackEndThatReturnsWhatItWasNotGivenIsFound) {
  const uint16_t head = Request();
  KickAndAwait(1);
  Use(static_cast<uint16_t>(head + 1));
  EXPECT_EQ(relay_->Rewind(0).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(error_.IsSignalled());
}

}  // namespace
}  // namespace vhost::user

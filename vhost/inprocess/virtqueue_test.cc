// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What all kinds of ring do alike. What is of one kind only is in split_queue_test and
// packed_queue_test.
#include "vhost/inprocess/virtqueue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "vhost/inprocess/virtqueue_fixture.h"

namespace vhost::inprocess {
namespace {

using fakes::DriverRing;
using fakes::GuestRam;

struct Kind {
  const char* name;
  bool packed;
  bool in_order;
  bool event_idx;
  uint16_t size;  // of the ring
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

constexpr Kind kKinds[] = {
    {"Split", false, false, false, 8},           {"SplitEventIdx", false, false, true, 8},
    {"SplitInOrder", false, true, true, 8},      {"Packed", true, false, false, 8},
    {"PackedEventIdx", true, false, true, 7},    {"PackedInOrder", true, true, true, 7},
    {"PackedOfOddSize", true, false, false, 11},
};

class EveryRingTest : public VirtqueueTest, public ::testing::WithParamInterface<Kind> {
 protected:
  EveryRingTest() { Build(options()); }
  static DriverRing::Options options() {
    return {.size = GetParam().size,
            .event_idx = GetParam().event_idx,
            .packed = GetParam().packed,
            .in_order = GetParam().in_order};
  }
  // What an event index must be so that the next used chain of one descriptor passes it.
  void WantInterruptForNextOf(uint16_t used_so_far, bool wrap) {
    if (!GetParam().event_idx) return ring_->WantInterrupts(true);
    if (!GetParam().packed) return ring_->WantInterruptAfter(used_so_far);
    ring_->WantInterruptAfter(static_cast<uint16_t>(used_so_far | (wrap ? 0x8000 : 0)));
  }
};

INSTANTIATE_TEST_SUITE_P(, EveryRingTest, ::testing::ValuesIn(kKinds),
                         [](const ::testing::TestParamInfo<Kind>& row) {
                           return std::string(row.param.name);
                         });

TEST_P(EveryRingTest, AnswersWhatTheDriverAsked) {
  EXPECT_TRUE(NothingToTake());
  const uint16_t id =
      ring_->Chain().Readable("pi").Readable("ng").Writable(3).Writable(9).Publish();
  Chain chain = MustTake();
  EXPECT_EQ(Text(chain), "ping");
  EXPECT_EQ(chain.readable().size(), 2u);
  EXPECT_EQ(chain.writable().size(), 2u);
  EXPECT_EQ(chain.writable_bytes(), 12u);
  ASSERT_TRUE(chain.Write(0, AsBytes("pong!")).ok());
  chain.Return(5);
  EXPECT_FALSE(chain.held());
  EXPECT_FALSE(ring_->TakeUsed().has_value());  // Not before it is published.
  queue_->Flush();
  const auto used = ring_->TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->head, id);
  EXPECT_EQ(used->text(), "pong!");
  EXPECT_FALSE(ring_->TakeUsed().has_value());
  EXPECT_TRUE(NothingToTake());
}

TEST_P(EveryRingTest, GoesAroundManyTimesWithChainsOfAllLengths) {
  for (int i = 0; i < 3000; ++i) {
    const int descs = 1 + i % 3;
    auto builder = ring_->Chain().Readable(std::to_string(i));
    // NOLINTNEXTLINE(bugprone-use-after-move): a builder hands itself on.
    for (int d = 1; d < descs; ++d) std::move(builder).At(ram_.region().start, 4, true);
    const uint16_t id = std::move(builder).Publish();
    Chain chain = MustTake();
    ASSERT_EQ(Text(chain), std::to_string(i));
    ASSERT_EQ(chain.writable().size(), static_cast<size_t>(descs - 1));
    ReturnAndFlush(std::move(chain), 0);
    const auto used = ring_->TakeUsed();
    ASSERT_TRUE(used.has_value()) << i;
    ASSERT_EQ(used->head, id);
    ASSERT_TRUE(NothingToTake());
  }
}

TEST_P(EveryRingTest, FollowsAnIndirectTable) {
  ring_->Chain().Readable("in").Readable("direct").Writable(4).Indirect().Publish();
  ring_->Chain().Readable("next").Publish();
  Chain chain = MustTake();
  EXPECT_EQ(Text(chain), "indirect");
  EXPECT_EQ(chain.writable_bytes(), 4u);
  EXPECT_EQ(Text(MustTake()), "next");
}

TEST_P(EveryRingTest, ReadsAndWritesFromTheMiddleAcrossDescriptors) {
  ring_->Chain().Readable("abc").Readable("defg").Writable(2).Writable(2).Publish();
  Chain chain = MustTake();
  std::string middle(4, '\0');
  ASSERT_TRUE(chain.Read(2, std::as_writable_bytes(std::span(middle))).ok());
  EXPECT_EQ(middle, "cdef");
  ASSERT_TRUE(chain.Write(1, AsBytes("xyz")).ok());
  chain.Return(4);
  queue_->Flush();
  EXPECT_EQ(ring_->TakeUsed()->text().substr(1), "xyz");
}

TEST_P(EveryRingTest, RefusesToReadOrWriteBeyondAChain) {
  ring_->Chain().Readable("abc").Writable(2).Publish();
  Chain chain = MustTake();
  std::array<std::byte, 4> four{};
  EXPECT_EQ(chain.Read(0, four).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(chain.Read(~uint64_t{0}, four).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(chain.Write(1, std::span(four).first(2)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(chain.Read(3, {}).ok());
}

TEST_P(EveryRingTest, ReturnsAChainOnceHoweverOftenItIsMovedAndReturned) {
  ring_->Chain().Writable(8).Publish();
  Chain first = MustTake();
  Chain second = std::move(first);
  first.Return(1);  // NOLINT(bugprone-use-after-move): that is the point.
  second.Return(2);
  second.Return(3);
  queue_->Flush();
  EXPECT_EQ(ring_->TakeUsed()->written, 2u);
  EXPECT_FALSE(ring_->TakeUsed().has_value());
}

TEST_P(EveryRingTest, NeverReportsMoreBytesThanAChainHasRoomFor) {
  ring_->Chain().Writable(8).Publish();
  ReturnAndFlush(MustTake(), 100);
  EXPECT_EQ(ring_->TakeUsed()->written, 8u);
}

TEST_P(EveryRingTest, RefusesIndirectDescriptorsThatWereNotNegotiated) {
  Serve(Acked(options()) - VirtioFeatures{VirtioFeature::kIndirectDesc}, queue_->base());
  ring_->Chain().Readable("x").Indirect().Publish();
  EXPECT_THAT(std::string(TakeError().message()), ::testing::HasSubstr("not negotiated"));
}

TEST_P(EveryRingTest, ShowsTheDriverAllThatWasReturnedAtOnce) {
  for (const char* text : {"a", "b", "c"}) ring_->Chain().Readable(text).Writable(2).Publish();
  std::vector<Chain> chains(3);
  for (Chain& chain : chains) ASSERT_TRUE(queue_->Take(chain));
  for (Chain& chain : chains) {
    ASSERT_TRUE(chain.Write(0, AsBytes("x")).ok());
    chain.Return(1);
    EXPECT_FALSE(ring_->TakeUsed().has_value());
  }
  queue_->Flush();
  for (int i = 0; i < 3; ++i) {
    const auto used = ring_->TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->text(), "x");
  }
}

TEST_P(EveryRingTest, TellsTheBytesOfChainsThatWereFilledInPartAndWhole) {
  const uint32_t written[] = {2, 2, 1, 0, 2};
  for (size_t i = 0; i < std::size(written); ++i) ring_->Chain().Writable(2).Publish();
  for (uint32_t bytes : written) MustTake().Return(bytes);
  queue_->Flush();
  for (uint32_t bytes : written) EXPECT_EQ(ring_->TakeUsed()->written, bytes);
}

TEST_P(EveryRingTest, TakesAgainWhatWasPutBack) {
  for (const char* text : {"a", "bb", "ccc"}) {
    ring_->Chain().Readable(text).Readable("!").Publish();
    Chain chain = MustTake();
    queue_->PutBack(std::move(chain));
    EXPECT_EQ(queue_->in_flight(), 0);
    chain = MustTake();
    EXPECT_EQ(Text(chain), std::string(text) + "!");
    ReturnAndFlush(std::move(chain), 0);
    EXPECT_TRUE(ring_->TakeUsed().has_value());
  }
}

TEST_P(EveryRingTest, TakesAgainSeveralThatWerePutBackNewestFirst) {
  for (const char* text : {"a", "b", "c"}) ring_->Chain().Readable(text).Publish();
  std::vector<Chain> chains(3);
  for (Chain& chain : chains) ASSERT_TRUE(queue_->Take(chain));
  queue_->PutBack(std::move(chains[2]));
  queue_->PutBack(std::move(chains[1]));
  ReturnAndFlush(std::move(chains[0]), 0);
  const VringBase base = queue_->base();
  Serve(Acked(options()), base);  // Another server takes them as well.
  EXPECT_EQ(Text(MustTake()), "b");
  EXPECT_EQ(Text(MustTake()), "c");
  EXPECT_TRUE(NothingToTake());
}

TEST_P(EveryRingTest, RefusesToPutBackWhatIsNotTheNewest) {
  for (const char* text : {"a", "b"}) ring_->Chain().Readable(text).Publish();
  Chain first = MustTake();
  Chain second = MustTake();
  queue_->PutBack(std::move(first));
  EXPECT_EQ(queue_->broken().code(), absl::StatusCode::kInternal);
}

TEST_P(EveryRingTest, ReturnsADroppedChainWithoutBytes) {
  ring_->Chain().Writable(8).Publish();
  { Chain dropped = MustTake(); }
  queue_->Flush();
  EXPECT_EQ(ring_->TakeUsed()->written, 0u);
  EXPECT_EQ(queue_->in_flight(), 0);
}

TEST_P(EveryRingTest, ReturnsWhatAChainHeldBeforeAnotherIsTakenIntoIt) {
  ring_->Chain().Readable("a").Publish();
  ring_->Chain().Readable("b").Publish();
  Chain chain = MustTake();
  ASSERT_TRUE(queue_->Take(chain));
  EXPECT_EQ(Text(chain), "b");
  EXPECT_EQ(queue_->in_flight(), 1);
  queue_->Flush();
  EXPECT_TRUE(ring_->TakeUsed().has_value());
  EXPECT_FALSE(ring_->TakeUsed().has_value());
}

TEST_P(EveryRingTest, ReturnsChainsInAnyOrder) {
  const uint16_t a = ring_->Chain().Readable("a").Readable("a").Publish();
  const uint16_t b = ring_->Chain().Readable("b").Publish();
  Chain first = MustTake();
  Chain second = MustTake();
  second.Return(0);
  queue_->Flush();
  // In order, the driver is told of no chain before those that it made available earlier.
  if (GetParam().in_order) {
    EXPECT_FALSE(ring_->TakeUsed().has_value());
    ReturnAndFlush(std::move(first), 0);
    EXPECT_EQ(ring_->TakeUsed()->head, a);
    EXPECT_EQ(ring_->TakeUsed()->head, b);
    return;
  }
  ReturnAndFlush(std::move(first), 0);
  EXPECT_EQ(ring_->TakeUsed()->head, b);
  EXPECT_EQ(ring_->TakeUsed()->head, a);
}

TEST_P(EveryRingTest, CutsABufferAtTheBordersOfRegions) {
  // Neighbours in the guest, apart in this process.
  GuestRam low(4096, 0x4000'0000);
  GuestRam high(4096, 0x4000'1000);
  memory_ = std::make_shared<const MemoryTable>(
      *MemoryTable::Create({ram_.region(), low.region(), high.region()}));
  Build(options());
  ring_->Chain().At(low.region().start + 4000, 200, false).At(low.end(), 4096, true).Publish();
  Chain chain = MustTake();
  ASSERT_EQ(chain.readable().size(), 2u);
  EXPECT_EQ(chain.readable()[0].iov_base, low.Host(low.region().start + 4000));
  EXPECT_EQ(chain.readable()[0].iov_len, 96u);
  EXPECT_EQ(chain.readable()[1].iov_base, high.Host(high.region().start));
  EXPECT_EQ(chain.readable()[1].iov_len, 104u);
  EXPECT_EQ(chain.readable_bytes(), 200u);
  ASSERT_EQ(chain.writable().size(), 1u);
  EXPECT_EQ(chain.writable()[0].iov_base, high.Host(high.region().start));
}

TEST_P(EveryRingTest, FollowsAnIndirectTableThatLiesInTwoRegions) {
  GuestRam low(4096, 0x4000'0000);
  GuestRam high(4096, 0x4000'1000);
  memory_ = std::make_shared<const MemoryTable>(
      *MemoryTable::Create({ram_.region(), low.region(), high.region()}));
  Build(options());
  ring_->Chain().Readable("in two").Readable(" regions").Indirect().Publish();
  // Its table, moved so that the border cuts the second descriptor.
  const GuestAddress to = low.end() + (uint64_t{0} - 24);
  if (GetParam().packed) {
    kernel_abi::PackedDesc desc;
    std::memcpy(&desc, ram_.Host(ring_->setup().desc), sizeof(desc));
    const auto table = ram_.Bytes(GuestAddress{desc.addr}, 32);
    ASSERT_TRUE(memory_->Write(to, table).ok());
    desc.addr = Value(to);
    ring_->PutPacked(0, desc);
  } else {
    kernel_abi::VirtqDesc desc;
    std::memcpy(&desc, ram_.Host(ring_->setup().desc), sizeof(desc));
    const auto table = ram_.Bytes(GuestAddress{desc.addr}, 32);
    ASSERT_TRUE(memory_->Write(to, table).ok());
    desc.addr = Value(to);
    ring_->PutDesc(0, desc);
  }
  EXPECT_EQ(Text(MustTake()), "in two regions");
}

// ---- Moves -------------------------------------------------------------------------------------

TEST_P(EveryRingTest, GoesOnWhereAnotherServerStopped) {
  for (int i = 0; i < 100; ++i) {
    ring_->Chain().Readable(std::to_string(i)).Writable(1).Publish();
    Chain chain = MustTake();
    ASSERT_EQ(Text(chain), std::to_string(i));
    chain.Return(1);
    const VringBase base = queue_->base();
    Serve(Acked(options()), base);  // Publishes what was returned.
    ASSERT_TRUE(queue_->broken().ok()) << queue_->broken();
    ASSERT_EQ(queue_->base(), base);
    ASSERT_TRUE(NothingToTake());
    ASSERT_EQ(ring_->TakeUsed()->written, 1u);
  }
}

TEST_P(EveryRingTest, AsksForKicksAgainAfterAServerThatWantedNone) {
  queue_->DisableKicks();
  Serve(Acked(options()), queue_->base());
  EXPECT_FALSE(queue_->EnableKicks());
  ring_->Chain().Readable("x").Publish();
  EXPECT_TRUE(ring_->KickWanted());
}

TEST_P(EveryRingTest, UsesTheMemoryThatItIsGiven) {
  GuestRam more(4096, 0x4000'0000);
  ring_->Chain().Readable("a").Publish();
  MustTake().Return(0);
  queue_->SetMemory(
      std::make_shared<const MemoryTable>(*MemoryTable::Create({ram_.region(), more.region()})));
  ring_->Chain().At(more.region().start, 4096, true).Publish();
  EXPECT_EQ(MustTake().writable_bytes(), 4096u);
  queue_->SetMemory(ram_.table());
  ring_->Chain().At(more.region().start, 4096, true).Publish();
  EXPECT_EQ(TakeError().code(), absl::StatusCode::kOutOfRange);
}

// ---- Suppression -------------------------------------------------------------------------------

TEST_P(EveryRingTest, SignalsWhenTheDriverWantsItAndOnlyThen) {
  WantInterruptForNextOf(0, true);
  EXPECT_FALSE(queue_->SignalUsed());  // Nothing new.
  ring_->Chain().Writable(1).Publish();
  MustTake().Return(1);
  EXPECT_TRUE(queue_->SignalUsed());
  EXPECT_TRUE(call_->Drain());
  EXPECT_FALSE(queue_->SignalUsed());
  if (!GetParam().event_idx) ring_->WantInterrupts(false);
  ring_->Chain().Writable(1).Publish();
  MustTake().Return(1);
  EXPECT_FALSE(queue_->SignalUsed());  // The event was passed, and was not moved on.
  EXPECT_FALSE(call_->Drain());
  EXPECT_TRUE(ring_->TakeUsed().has_value());
}

TEST_P(EveryRingTest, SignalsOnceForABatchThatPassesTheDriversEvent) {
  WantInterruptForNextOf(1, true);
  for (int i = 0; i < 4; ++i) ring_->Chain().Writable(1).Publish();
  for (int i = 0; i < 4; ++i) MustTake().Return(1);
  EXPECT_TRUE(queue_->SignalUsed());
  EXPECT_TRUE(call_->Drain());
}

TEST_P(EveryRingTest, SignalsWheneverTheEventIsPassedAllAroundTheRing) {
  if (!GetParam().event_idx) return;
  uint16_t split_used = 0;
  uint16_t offset = 0;
  bool wrap = true;
  for (int i = 0; i < 100; ++i) {
    // Every third time the driver wants to hear of the one after the next.
    const bool soon = i % 3 != 0;
    if (!GetParam().packed) {
      ring_->WantInterruptAfter(static_cast<uint16_t>(split_used + (soon ? 0 : 1)));
    } else {
      const uint32_t at = uint32_t{offset} + (soon ? 0 : 1);
      const bool beyond = at >= ring_->setup().size;
      ring_->WantInterruptAfter(static_cast<uint16_t>((beyond ? at - ring_->setup().size : at) |
                                                      (wrap != beyond ? 0x8000 : 0)));
    }
    ring_->Chain().Writable(1).Publish();
    MustTake().Return(1);
    ASSERT_EQ(queue_->SignalUsed(), soon) << i;
    ASSERT_TRUE(ring_->TakeUsed().has_value());
    ++split_used;
    if (++offset == ring_->setup().size) {
      offset = 0;
      wrap = !wrap;
    }
  }
}

TEST_P(EveryRingTest, AsksForNoKicksWhileItIsAtWork) {
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(queue_->EnableKicks());
    ring_->Chain().Writable(1).Publish();
    EXPECT_TRUE(ring_->KickWanted());
    queue_->DisableKicks();
    MustTake().Return(1);
    ring_->Chain().Writable(1).Publish();
    EXPECT_FALSE(ring_->KickWanted());
    // What came while kicks were off is seen when they are asked for again.
    EXPECT_TRUE(queue_->EnableKicks());
    MustTake().Return(1);
    EXPECT_FALSE(queue_->EnableKicks());
    while (ring_->TakeUsed().has_value()) {
    }
  }
}

TEST_P(EveryRingTest, LosesNoWakeUpEitherWayAgainstADriverOnAnotherThread) {
  auto kick = kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  ASSERT_TRUE(kick.ok());
  constexpr int kChains = 20'000;
  const GuestAddress buffer = ram_.Allocate(4);
  ASSERT_FALSE(queue_->EnableKicks());
  std::thread device([&] {
    for (int taken = 0; taken < kChains;) {
      // A lost kick shows as a hang here, which the test's time limit ends.
      while (!kick->Drain()) std::this_thread::yield();
      do {
        queue_->DisableKicks();
        Chain chain;
        while (queue_->Take(chain)) {
          chain.Return(4);
          ++taken;
        }
        ASSERT_TRUE(queue_->broken().ok()) << queue_->broken();
        queue_->SignalUsed();
      } while (queue_->EnableKicks());
    }
  });
  const int at_once = std::min<int>(4, GetParam().size);
  int under_way = 0;
  for (int i = 0; i < kChains; ++i) {
    while (under_way == at_once) {
      while (ring_->TakeUsed().has_value()) --under_way;
      if (under_way == at_once) std::this_thread::yield();
    }
    ring_->Chain().At(buffer, 4, true).Publish();
    ++under_way;
    if (ring_->KickWanted()) kick->Signal();
  }
  device.join();
  while (ring_->TakeUsed().has_value()) --under_way;
  EXPECT_EQ(under_way, 0);
}

}  // namespace
}  // namespace vhost::inprocess

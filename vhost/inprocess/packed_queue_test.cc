// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is of packed rings only: bases, used descriptors as they lie in the ring, and hostile ones.
#include "vhost/inprocess/packed_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/virtqueue_fixture.h"

namespace vhost::inprocess {
namespace {

using fakes::DriverRing;
using fakes::GuestRam;
using kernel_abi::kDescFIndirect;
using kernel_abi::kDescFNext;
using kernel_abi::kDescFWrite;
using kernel_abi::PackedDesc;
using ::testing::HasSubstr;

constexpr uint16_t kAvail = kernel_abi::kPackedDescFAvail;
constexpr uint16_t kUsed = kernel_abi::kPackedDescFUsed;

class PackedQueueTest : public VirtqueueTest {
 protected:
  void Build(uint16_t size = 16, bool in_order = false) {
    VirtqueueTest::Build({.size = size, .packed = true, .in_order = in_order});
  }
  static VirtioFeatures Packed() { return {VirtioFeature::kVersion1, VirtioFeature::kRingPacked}; }
};

TEST_F(PackedQueueTest, BeginsWithBothWrapCountersAtOne) {
  Build();
  EXPECT_EQ(InitialBase(VringLayout::kPacked), 0x8000'8000u);
  EXPECT_EQ(queue_->base(), 0x8000'8000u);
}

TEST_F(PackedQueueTest, EncodesItsBaseAsVhostDoes) {
  Build(4);
  for (int i = 0; i < 3; ++i) {
    ring_->Chain().Readable("x").Publish();
    ReturnAndFlush(MustTake(), 0);
    ring_->TakeUsed();
  }
  EXPECT_EQ(queue_->base(), 0x8003'8003u);
  ring_->Chain().Readable("x").Readable("y").Publish();
  Chain chain = MustTake();
  EXPECT_EQ(queue_->base(), 0x8003'0001u);  // Taken around the end, used not yet.
  chain.Return(0);
  EXPECT_EQ(queue_->base(), 0x0001'0001u);
}

TEST_F(PackedQueueTest, RefusesBasesThatAreNone) {
  Build(4);
  for (const VringBase base :
       {0x8004'8000u, 0x8000'8004u, 0x7fff'7fffu, 0x8001'8000u, 0x8001'0002u}) {
    Serve(Packed(), base);
    EXPECT_EQ(queue_->broken().code(), absl::StatusCode::kInvalidArgument) << std::hex << base;
    EXPECT_FALSE(TakeError().ok());  // And looks nowhere.
  }
}

TEST_F(PackedQueueTest, RefusesALayoutThatWasNotNegotiated) {
  Build();
  Serve({VirtioFeature::kVersion1}, queue_->base());
  EXPECT_EQ(queue_->broken().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PackedQueueTest, MarksUsedDescriptorsWithTheWrapCounterAndWhetherTheyWereWritten) {
  Build(2);
  const uint16_t expected[] = {kAvail | kUsed | kDescFWrite, kAvail | kUsed, kDescFWrite, 0};
  for (int i = 0; i < 4; ++i) {
    ring_->Chain().Writable(4).Publish();
    ReturnAndFlush(MustTake(), i % 2 == 0 ? 4 : 0);
    EXPECT_EQ(ring_->packed_flags(static_cast<uint16_t>(i % 2)), expected[i]) << i;
    EXPECT_TRUE(ring_->TakeUsed().has_value());
  }
}

TEST_F(PackedQueueTest, TellsOfABatchInOrderWithOneDescriptor) {
  Build(8, true);
  for (int i = 0; i < 4; ++i) ring_->Chain().Readable("x").Publish();
  for (int i = 0; i < 4; ++i) MustTake().Return(0);
  queue_->Flush();
  EXPECT_EQ(ring_->packed_flags(0), kAvail | kUsed);
  // Those that were skipped are as the driver left them.
  for (uint16_t i = 1; i < 4; ++i) EXPECT_EQ(ring_->packed_flags(i), kAvail);
  for (uint16_t i = 0; i < 4; ++i) EXPECT_TRUE(ring_->TakeUsed().has_value());
  EXPECT_FALSE(ring_->TakeUsed().has_value());
}

TEST_F(PackedQueueTest, IgnoresNextInAnIndirectTable) {
  Build();
  const PackedDesc table[] = {{Value(ram_.Allocate(4)), 4, 0, kDescFNext},
                              {Value(ram_.Allocate(4)), 4, 0, kDescFNext | kDescFWrite}};
  const GuestAddress at = ram_.Allocate(sizeof(table));
  ram_.Put(at, std::as_bytes(std::span(table)));
  ring_->PutPacked(0, {Value(at), sizeof(table), 7, kDescFIndirect | kAvail});
  Chain chain = MustTake();
  EXPECT_EQ(chain.readable_bytes(), 4u);
  EXPECT_EQ(chain.writable_bytes(), 4u);
}

TEST_F(PackedQueueTest, UsesWhatItCheckedWhateverTheDriverWritesAfterwards) {
  Build();
  ring_->Chain().Readable("checked").Publish();
  Chain chain = MustTake();
  ring_->PutPacked(0, {Value(ram_.end()), 0xffff'ffff, 9, kDescFNext | kAvail});
  EXPECT_EQ(Text(chain), "checked");
}

// ---- Hostile drivers ---------------------------------------------------------------------------

struct HostileRing {
  const char* name;
  std::function<void(DriverRing&, GuestRam&)> write;
  const char* message;
};
void PrintTo(const HostileRing& ring, std::ostream* out) { *out << ring.name; }

uint64_t Buffer(GuestRam& ram) { return Value(ram.Allocate(64)); }

void PutIndirect(DriverRing& ring, GuestRam& ram, std::vector<PackedDesc> table, uint32_t length,
                 uint16_t flags = kDescFIndirect) {
  const GuestAddress at = ram.Allocate(sizeof(PackedDesc) * table.size());
  ram.Put(at, std::as_bytes(std::span(table)));
  ring.PutPacked(0, {Value(at), length, 0, static_cast<uint16_t>(flags | kAvail)});
}

const HostileRing kHostileRings[] = {
    {"AChainWithoutEnd",
     [](DriverRing& r, GuestRam& m) {
       for (uint16_t i = 0; i < 16; ++i) r.PutPacked(i, {Buffer(m), 8, i, kDescFNext | kAvail});
     },
     "more than 16 descriptors in a ring of 16"},
    {"ReadableAfterWritable",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(1, {Buffer(m), 8, 0, kAvail});
       r.PutPacked(0, {Buffer(m), 8, 0, kDescFNext | kDescFWrite | kAvail});
     },
     "readable descriptor after a writable"},
    {"ZeroLength",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(0, {Buffer(m), 0, 0, kAvail});
     },
     "0 bytes"},
    {"AddressOutsideMemory",
     [](DriverRing& r, GuestRam&) {
       r.PutPacked(0, {0x1000, 8, 0, kAvail});
     },
     "not in guest memory"},
    {"BufferThatStraddlesTheEndOfMemory",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(0, {Value(m.end()) - 4, 8, 0, kDescFWrite | kAvail});
     },
     "not in guest memory"},
    {"BufferThatWrapsAroundTheAddressSpace",
     [](DriverRing& r, GuestRam&) {
       r.PutPacked(0, {~uint64_t{0} - 3, 0xffff'ffff, 0, kDescFWrite | kAvail});
     },
     "not in guest memory"},
    {"IndirectInsideIndirect",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, 0, kDescFIndirect}}, 16);
     },
     "indirect descriptor in an indirect table"},
    {"IndirectWithNext",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, 0, 0}}, 16, kDescFIndirect | kDescFNext);
     },
     "in a list of others"},
    {"IndirectBehindADirectOne",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(1, {Buffer(m), 16, 0, kDescFIndirect | kAvail});
       r.PutPacked(0, {Buffer(m), 16, 0, kDescFNext | kAvail});
     },
     "in a list of others"},
    {"IndirectTableOfOddLength",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, 0, 0}}, 24);
     },
     "no whole number"},
    {"EmptyIndirectTable",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, 0, 0}}, 0);
     },
     "no whole number"},
    {"IndirectTableLongerThanTheRing",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, std::vector<PackedDesc>(17, {Buffer(m), 16, 0, 0}), 17 * 16);
     },
     "more than 16 descriptors in a chain"},
    {"IndirectTableOutsideMemory",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(0, {Value(m.end()), 16, 0, kDescFIndirect | kAvail});
     },
     "indirect table"},
    {"IndirectTableThatStraddlesTheEndOfMemory",
     [](DriverRing& r, GuestRam& m) {
       r.PutPacked(0, {Value(m.end()) - 16, 32, 0, kDescFIndirect | kAvail});
     },
     "indirect table"},
};

class HostilePackedQueueTest : public PackedQueueTest,
                               public ::testing::WithParamInterface<HostileRing> {};

TEST_P(HostilePackedQueueTest, BreaksTheRingForGoodAndWritesNothing) {
  Build();
  GetParam().write(*ring_, ram_);
  const std::vector<std::byte> before = ram_.Bytes(ring_->setup().desc, 16 * 16);
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(std::string(TakeError().message()), HasSubstr(GetParam().message));
  }
  EXPECT_EQ(queue_->base(), 0x8000'8000u);
  EXPECT_FALSE(queue_->EnableKicks());
  EXPECT_FALSE(queue_->SignalUsed());
  EXPECT_FALSE(call_->Drain());
  queue_.reset();
  EXPECT_EQ(ram_.Bytes(ring_->setup().desc, 16 * 16), before);
}

INSTANTIATE_TEST_SUITE_P(, HostilePackedQueueTest, ::testing::ValuesIn(kHostileRings),
                         [](const ::testing::TestParamInfo<HostileRing>& row) {
                           return std::string(row.param.name);
                         });

TEST_F(PackedQueueTest, StopsADriverThatGoesAroundBeforeItsChainsWereReturned) {
  Build(4);
  for (uint16_t i = 0; i < 4; ++i) ring_->PutPacked(i, {Buffer(ram_), 8, i, kAvail});
  std::vector<Chain> chains(4);
  for (Chain& chain : chains) ASSERT_TRUE(queue_->Take(chain));
  EXPECT_TRUE(NothingToTake());
  ring_->PutPacked(0, {Buffer(ram_), 8, 0, kUsed});  // As if available in the next round.
  EXPECT_THAT(std::string(TakeError().message()), HasSubstr("4 in flight"));
  chains.clear();
  EXPECT_EQ(queue_->in_flight(), 0);
}

TEST_F(PackedQueueTest, WritesNothingForChainsThatAreReturnedAfterTheRingBroke) {
  Build();
  ring_->Chain().Writable(4).Publish();
  Chain chain = MustTake();
  ring_->PutPacked(1, {Buffer(ram_), 0, 0, kAvail});
  EXPECT_FALSE(TakeError().ok());
  ReturnAndFlush(std::move(chain), 4);
  EXPECT_EQ(ring_->packed_flags(0), kAvail | kDescFWrite);
}

TEST_F(PackedQueueTest, ReturnsWhateverIdADriverGave) {
  Build();
  ring_->PutPacked(0, {Buffer(ram_), 8, 0xffff, kAvail});
  ReturnAndFlush(MustTake(), 0);
  EXPECT_EQ(ring_->TakeUsed()->head, 0xffff);
}

TEST_F(PackedQueueTest, TakesAnyEventOffsetForTheDriversOwnLoss) {
  VirtqueueTest::Build({.size = 4, .event_idx = true, .packed = true});
  for (const uint16_t event : {0x7fff, 0xffff, 0x8004, 0x0003}) {
    ring_->WantInterruptAfter(event);
    ring_->Chain().Readable("x").Publish();
    MustTake().Return(0);
    queue_->SignalUsed();  // Either way; but nothing else happens.
    EXPECT_TRUE(ring_->TakeUsed().has_value());
  }
  EXPECT_TRUE(queue_->broken().ok());
}

}  // namespace
}  // namespace vhost::inprocess

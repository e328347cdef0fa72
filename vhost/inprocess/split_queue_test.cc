// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/virtqueue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "kernel-abi/virtio.h"
#include "tests/fakes/driver_ring.h"
#include "vhost/inprocess/virtqueue_fixture.h"

namespace vhost::inprocess {
namespace {

using fakes::DriverRing;
using fakes::GuestRam;
using kernel_abi::kDescFIndirect;
using kernel_abi::kDescFNext;
using kernel_abi::kDescFWrite;
using ::testing::HasSubstr;

class SplitQueueTest : public VirtqueueTest {
 protected:
  void Build(DriverRing::Options options = {}, uint16_t base = 0) {
    VirtqueueTest::Build(options);
    Serve(Acked(options), base);
  }
};

TEST_F(SplitQueueTest, TakesAnIndirectDescriptorBehindDirectOnesAndIgnoresItsWriteFlag) {
  Build();
  const DriverRing::Desc inner{Value(ram_.Allocate(8)), 8, kDescFWrite, 0};
  const GuestAddress table = ram_.Allocate(sizeof(inner));
  ram_.Put(table, std::as_bytes(std::span(&inner, 1)));
  ring_->PutDesc(0, {Value(ram_.Allocate(4)), 4, kDescFNext, 1});
  ring_->PutDesc(1, {Value(table), sizeof(inner), kDescFIndirect | kDescFWrite, 0});
  ring_->PutAvailable(0);
  Chain chain = MustTake();
  EXPECT_EQ(chain.readable_bytes(), 4u);
  EXPECT_EQ(chain.writable_bytes(), 8u);
}

TEST_F(SplitQueueTest, GoesOnFromABaseAndAroundTheEndOfTheIndices) {
  Build({.size = 4}, 0xfffe);
  ring_->PutAvailableIndex(0xfffe);
  for (int i = 0; i < 10; ++i) {
    ring_->PutDesc(0, {Value(ram_.Allocate(4)), 4, kDescFWrite, 0});
    ring_->PutAvailable(0);
    ReturnAndFlush(MustTake(), 4);
    EXPECT_EQ(ring_->used_index(), i + 1);
  }
  EXPECT_EQ(queue_->base(), 8);
}

TEST_F(SplitQueueTest, TellsOfABatchInOrderWithOneEntryAtThePlaceOfItsFirstChain) {
  Build({.size = 8, .in_order = true});
  const auto entry = [this](uint16_t slot) {
    kernel_abi::VirtqUsedElem element;
    std::memcpy(&element, ram_.Host(ring_->setup().device + 4 + 8 * uint64_t{slot}),
                sizeof(element));
    return element;
  };
  // Three that are used completely and one that is not are one batch; then there is another.
  const uint32_t written[] = {4, 4, 4, 1, 2};
  for (size_t i = 0; i < std::size(written); ++i) ring_->Chain().Writable(4).Publish();
  for (const uint32_t bytes : written) MustTake().Return(bytes);
  queue_->Flush();
  EXPECT_EQ(ring_->used_index(), 5);
  EXPECT_EQ(entry(0).id, 3u);
  EXPECT_EQ(entry(0).len, 1u);
  EXPECT_EQ(entry(4).id, 4u);
  EXPECT_EQ(entry(4).len, 2u);
  for (const uint32_t bytes : written) EXPECT_EQ(ring_->TakeUsed()->written, bytes);
}

// ---- Suppression -------------------------------------------------------------------------------

TEST_F(SplitQueueTest, SignalsOnceTheUsedIndexPassesTheDriversEvent) {
  Build({.event_idx = true});
  ring_->WantInterruptAfter(1);
  for (const bool expected : {false, true, false}) {
    ring_->Chain().Writable(1).Publish();
    ReturnAndFlush(MustTake(), 1);
    queue_->SignalUsed();
    EXPECT_EQ(call_->Drain(), expected) << "used index " << ring_->used_index();
  }
}

// ---- Hostile drivers ---------------------------------------------------------------------------

struct HostileRing {
  const char* name;
  std::function<void(DriverRing&, GuestRam&)> write;
  const char* message;
};

void PrintTo(const HostileRing& ring, std::ostream* out) { *out << ring.name; }

uint64_t Buffer(GuestRam& ram) { return Value(ram.Allocate(64)); }

void PutIndirect(DriverRing& ring, GuestRam& ram, std::vector<DriverRing::Desc> table,
                 uint32_t length, uint16_t flags = kDescFIndirect) {
  const GuestAddress at = ram.Allocate(sizeof(DriverRing::Desc) * table.size());
  ram.Put(at, std::as_bytes(std::span(table)));
  ring.PutDesc(0, {Value(at), length, flags, 1});
  ring.PutAvailable(0);
}

const HostileRing kHostileRings[] = {
    {"HeadBeyondTheTable", [](DriverRing& r, GuestRam&) { r.PutAvailable(16); },
     "descriptor 16 in a table of 16"},
    {"HeadFarBeyondTheTable", [](DriverRing& r, GuestRam&) { r.PutAvailable(0xffff); },
     "descriptor 65535"},
    {"NextBeyondTheTable",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Buffer(m), 8, kDescFNext, 16});
       r.PutAvailable(0);
     },
     "descriptor 16 in a table of 16"},
    {"ACycleOfOne",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(3, {Buffer(m), 8, kDescFNext, 3});
       r.PutAvailable(3);
     },
     "more than 16 descriptors"},
    {"ACycleOfTwo",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Buffer(m), 8, kDescFNext | kDescFWrite, 1});
       r.PutDesc(1, {Buffer(m), 8, kDescFNext | kDescFWrite, 0});
       r.PutAvailable(0);
     },
     "more than 16 descriptors"},
    {"AvailRunningAhead", [](DriverRing& r, GuestRam&) { r.PutAvailableIndex(17); },
     "17 entries ahead"},
    {"AvailRunningBackwards", [](DriverRing& r, GuestRam&) { r.PutAvailableIndex(0xffff); },
     "65535 entries ahead"},
    {"ReadableAfterWritable",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Buffer(m), 8, kDescFNext | kDescFWrite, 1});
       r.PutDesc(1, {Buffer(m), 8, 0, 0});
       r.PutAvailable(0);
     },
     "readable descriptor after a writable"},
    {"ZeroLength",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Buffer(m), 0, 0, 0});
       r.PutAvailable(0);
     },
     "0 bytes"},
    {"AddressOutsideMemory",
     [](DriverRing& r, GuestRam&) {
       r.PutDesc(0, {0x1000, 8, 0, 0});
       r.PutAvailable(0);
     },
     "not in guest memory"},
    {"BufferThatStraddlesTheEndOfMemory",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Value(m.end()) - 4, 8, kDescFWrite, 0});
       r.PutAvailable(0);
     },
     "not in guest memory"},
    {"BufferThatWrapsAroundTheAddressSpace",
     [](DriverRing& r, GuestRam&) {
       r.PutDesc(0, {~uint64_t{0} - 3, 0xffff'ffff, kDescFWrite, 0});
       r.PutAvailable(0);
     },
     "not in guest memory"},
    {"IndirectInsideIndirect",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, kDescFIndirect, 0}}, 16);
     },
     "indirect descriptor in an indirect table"},
    {"IndirectWithNext",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, 0, 0}}, 16, kDescFIndirect | kDescFNext);
     },
     "indirect descriptor with a next"},
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
    {"IndirectTableOutsideMemory",
     [](DriverRing& r, GuestRam& m) {
       r.PutDesc(0, {Value(m.end()), 16, kDescFIndirect, 0});
       r.PutAvailable(0);
     },
     "indirect table"},
    {"NextBeyondTheIndirectTable",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, kDescFNext, 1}}, 16);
     },
     "descriptor 1 in a table of 1"},
    {"ACycleInAnIndirectTable",
     [](DriverRing& r, GuestRam& m) {
       PutIndirect(r, m, {{Buffer(m), 16, kDescFNext, 0}}, 16);
     },
     "more than 16 descriptors"},
};

class HostileSplitQueueTest : public SplitQueueTest,
                              public ::testing::WithParamInterface<HostileRing> {};

TEST_P(HostileSplitQueueTest, BreaksTheRingForGoodAndWritesNothing) {
  Build();
  GetParam().write(*ring_, ram_);
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(std::string(TakeError().message()), HasSubstr(GetParam().message));
  }
  EXPECT_EQ(queue_->base(), 0);
  EXPECT_FALSE(queue_->EnableKicks());
  queue_->SignalUsed();
  EXPECT_FALSE(call_->Drain());
  EXPECT_EQ(ring_->used_index(), 0);
}

INSTANTIATE_TEST_SUITE_P(, HostileSplitQueueTest, ::testing::ValuesIn(kHostileRings),
                         [](const ::testing::TestParamInfo<HostileRing>& row) {
                           return std::string(row.param.name);
                         });

TEST_F(SplitQueueTest, RefusesAChainLongerThanAUsedLengthCanTell) {
  GuestRam big(uint64_t{1} << 32, uint64_t{1} << 33);  // Never touched, so never allocated.
  memory_ =
      std::make_shared<const MemoryTable>(*MemoryTable::Create({ram_.region(), big.region()}));
  Build();
  ring_->PutDesc(0, {Value(big.region().start), 0xffff'ffff, kDescFNext | kDescFWrite, 1});
  ring_->PutDesc(1, {Value(big.region().start), 2, kDescFWrite, 1});
  ring_->PutAvailable(0);
  EXPECT_THAT(std::string(TakeError().message()), HasSubstr("2^32"));
}

TEST_F(SplitQueueTest, WritesNothingForChainsThatAreReturnedAfterTheRingBroke) {
  Build();
  ring_->Chain().Writable(4).Publish();
  Chain chain = MustTake();
  ring_->PutAvailable(99);
  EXPECT_FALSE(TakeError().ok());
  chain.Return(4);
  queue_->Flush();
  EXPECT_EQ(ring_->used_index(), 0);
}

TEST_F(SplitQueueTest, UsesWhatItCheckedWhateverTheDriverWritesAfterwards) {
  Build();
  const uint16_t head = ring_->Chain().Readable("checked").Publish();
  Chain chain = MustTake();
  ring_->PutDesc(head, {Value(ram_.end()), 0xffff'ffff, kDescFNext, 99});
  EXPECT_EQ(Text(chain), "checked");
}

}  // namespace
}  // namespace vhost::inprocess

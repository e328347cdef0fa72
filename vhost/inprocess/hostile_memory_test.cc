// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Drivers that write to the ring, and to what it points at, while it is being read: what was
// checked must be what is used. Run under ThreadSanitizer and AddressSanitizer these also show that
// all shared words are atomic and that nothing outside of guest memory is touched.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/virtqueue_fixture.h"

namespace vhost::inprocess {
namespace {

constexpr uint16_t kSize = 8;
constexpr int kRounds = 20'000;

struct Kind {
  const char* name;
  bool packed;
  bool in_order;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

class HostileMemoryTest : public VirtqueueTest, public ::testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    Build({.size = kSize,
           .event_idx = true,
           .packed = GetParam().packed,
           .in_order = GetParam().in_order});
  }
  // A word of guest memory, written as a guest's CPU does.
  template <typename Word>
  void Store(GuestAddress at, Word value) {
    std::atomic_ref<Word>(*reinterpret_cast<Word*>(ram_.Host(at)))
        .store(value, std::memory_order_relaxed);
  }
  bool IsGuestMemory(const iovec& piece) const {
    const auto* first = static_cast<const std::byte*>(piece.iov_base);
    const MemoryRegion region = ram_.region();
    return first >= region.host && piece.iov_len > 0 && piece.iov_len <= region.size &&
           static_cast<uint64_t>(first - region.host) <= region.size - piece.iov_len;
  }
  void ExpectGuestMemory(const Chain& chain) const {
    size_t bytes = 0;
    for (const iovec& piece : chain.readable()) {
      ASSERT_TRUE(IsGuestMemory(piece));
      bytes += piece.iov_len;
    }
    for (const iovec& piece : chain.writable()) {
      ASSERT_TRUE(IsGuestMemory(piece));
      bytes += piece.iov_len;
    }
    ASSERT_EQ(bytes, chain.readable_bytes() + chain.writable_bytes());
  }
  VringBase Start() const { return InitialBase(ring_->layout()); }
};

INSTANTIATE_TEST_SUITE_P(
    , HostileMemoryTest,
    ::testing::Values(Kind{"Split", false, false}, Kind{"SplitInOrder", false, true},
                      Kind{"Packed", true, false}, Kind{"PackedInOrder", true, true}),
    [](const ::testing::TestParamInfo<Kind>& row) { return std::string(row.param.name); });

// A second thread writes noise over the whole ring, event words and indices included, and over the
// indirect table that the noise may point at.
TEST_P(HostileMemoryTest, SurvivesARingThatChangesUnderTheParser) {
  const GuestAddress table = ram_.Allocate(16 * kSize);
  const GuestAddress buffer = ram_.Allocate(64);
  std::atomic<bool> end = false;
  std::thread driver([&] {
    std::minstd_rand random(1);
    // Good more often than not, so that chains are taken too.
    const uint64_t addresses[] = {Value(buffer),         Value(buffer), Value(buffer),
                                  Value(buffer),         Value(table),  Value(table),
                                  Value(ram_.end()) - 8, ~uint64_t{0}};
    const uint32_t lengths[] = {16, 16, 32, 32, 64, 0, 0xffff'ffff, 16 * kSize};
    const uint32_t available[] = {kernel_abi::kPackedDescFAvail, kernel_abi::kPackedDescFAvail,
                                  kernel_abi::kPackedDescFUsed, 0};
    while (!end.load(std::memory_order_relaxed)) {
      const GuestAddress at =
          (random() % 2 == 0 ? ring_->setup().desc : table) + 16 * uint64_t{random() % kSize};
      uint64_t flags = random() & (random() % 2 == 0 ? 0x7U : 0x2U);
      if (GetParam().packed) flags |= available[random() % std::size(available)];
      const uint64_t other = random() % (kSize + 1);
      const uint64_t last = GetParam().packed ? other | flags << 16 : flags | other << 16;
      Store<uint64_t>(at, addresses[random() % std::size(addresses)]);
      Store<uint64_t>(at + 8, lengths[random() % std::size(lengths)] | last << 32);
      const VringBytes bytes = BytesOf(ring_->layout(), kSize);
      Store<uint16_t>(ring_->setup().driver + 2 * uint64_t{random() % (bytes.driver / 2)},
                      static_cast<uint16_t>(random() % (kSize + 1)));
      Store<uint16_t>(ring_->setup().device + 2 * uint64_t{random() % (bytes.device / 2)},
                      static_cast<uint16_t>(random()));
    }
  });
  int taken = 0;
  int broken = 0;
  // Until both have happened: noise that is all good or all bad proves nothing.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (int round = 0; round < kRounds || taken < 5 || broken < 5; ++round) {
    if (round % 1024 == 0) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() > deadline) break;
    }
    Chain chain;
    queue_->DisableKicks();
    if (queue_->Take(chain)) {
      ++taken;
      ExpectGuestMemory(chain);
      chain.Return(static_cast<uint32_t>(chain.writable_bytes()));
    }
    queue_->SignalUsed();
    (void)queue_->EnableKicks();
    if (queue_->broken().ok()) continue;
    ++broken;
    Serve(Acked({.event_idx = true, .packed = GetParam().packed, .in_order = GetParam().in_order}),
          Start());
  }
  end = true;
  driver.join();
  EXPECT_GE(taken, 5);
  EXPECT_GE(broken, 5);
}

// A chain that is good when it is checked, and points out of memory a moment later.
TEST_P(HostileMemoryTest, UsesTheDescriptorsThatItChecked) {
  const GuestAddress buffer = ram_.Allocate(64);
  std::atomic<bool> end = false;
  std::thread driver([&] {
    while (!end.load(std::memory_order_relaxed)) {
      for (uint64_t slot = 0; slot < kSize; ++slot) {
        Store<uint64_t>(ring_->setup().desc + 16 * slot, Value(ram_.end()));
        Store<uint64_t>(ring_->setup().desc + 16 * slot, Value(buffer));
      }
    }
  });
  int good = 0;
  for (int round = 0; round < kRounds; ++round) {
    ring_->Chain().At(buffer, 64, false).At(buffer, 64, true).Publish();
    Chain chain;
    if (queue_->Take(chain)) {
      ++good;
      for (const std::span<const iovec> pieces : {chain.readable(), chain.writable()}) {
        ASSERT_EQ(pieces.size(), 1u);
        ASSERT_EQ(pieces[0].iov_base, ram_.Host(buffer));
        ASSERT_EQ(pieces[0].iov_len, 64u);
      }
      chain.Return(0);
      queue_->Flush();
      ASSERT_TRUE(ring_->TakeUsed().has_value());
      continue;
    }
    ASSERT_EQ(queue_->broken().code(), absl::StatusCode::kOutOfRange) << queue_->broken();
    ring_->Forget();
    Serve(Acked({.event_idx = true, .packed = GetParam().packed, .in_order = GetParam().in_order}),
          Start());
  }
  end = true;
  driver.join();
  EXPECT_GT(good, 0);
}

// Other queues of the process go on: nothing is shared between a broken one and them.
TEST_P(HostileMemoryTest, LeavesAnotherQueueAlone) {
  fakes::DriverRing other(ram_, {.size = kSize});
  const auto vring = Vring::Create(other.setup(), other.layout(), *memory_);
  ASSERT_TRUE(vring.ok());
  const auto queue = Virtqueue::Create(kernel_abi::LinuxKernel(), *vring, 0,
                                       {VirtioFeature::kVersion1}, memory_, -1);
  ring_->Chain().At(ram_.end(), 4, false).Publish();
  EXPECT_FALSE(TakeError().ok());
  other.Chain().Readable("alive").Publish();
  Chain chain;
  ASSERT_TRUE(queue->Take(chain));
  EXPECT_EQ(Text(chain), "alive");
}

}  // namespace
}  // namespace vhost::inprocess

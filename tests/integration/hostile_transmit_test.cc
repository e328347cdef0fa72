// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest that sends what makes the worker of vhost-net turn in circles: with an unlimited sndbuf
// some kernels put such a packet back and look at it again for ever, and no eventfd tells of it.
// The watchdog must see that, and the device must get on without that worker. A kernel that drops
// the packet has nothing to be watched for; then that is what is looked at.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/integration/plane_machine.h"

namespace vhost {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(60);

enum class Input { kShorterThanTheHeader, kChecksumBeyondTheFrame, kUnmappedPages };

// Seen to turn in circles; what others do is theirs.
bool KernelIsKnownToSpin() {
  utsname name{};
  return ::uname(&name) == 0 && absl::StartsWith(name.release, "6.12.");
}

class HostileTransmitTest : public PlaneMachineTest, public testing::WithParamInterface<Input> {
 protected:
  HostileTransmitTest() : PlaneMachineTest(kernel_abi::kVhostNetPath) {}

  void BringUp(OffloadPolicy policy) {
    // Progress is what is asked of it here, so it may take its time to call a queue stalled.
    PlaneMachineTest::BringUp({.watchdog = {.period_ms = 200, .stall_ms = 60'000}},
                              {.name = "net0",
                               .policy = policy,
                               .tap = {.name = "taphostile", .sndbuf_bytes = kUnlimitedSndbuf}},
                              kAcked | VirtioFeatures{VirtioFeature::kNetCsum});
    if (HasFatalFailure()) return;
    ASSERT_EQ(Serving(), BackendKind::kKernel);
  }

  void SendHostile() {
    kernel_abi::VirtioNetHdr header{};
    const std::vector<std::byte> frame = Wire::Frame("hostile");
    switch (GetParam()) {
      case Input::kShorterThanTheHeader:
        ring(kTransmitQueue).Chain().Readable("short").Publish();
        break;
      case Input::kChecksumBeyondTheFrame:
        header.flags = kernel_abi::kNetHdrFNeedsCsum;
        header.csum_start = 65000;
        ring(kTransmitQueue)
            .Chain()
            .Readable(std::as_bytes(std::span(&header, 1)))
            .Readable(frame)
            .Publish();
        break;
      case Input::kUnmappedPages: {
        constexpr uint64_t kPage = 4096;
        const GuestAddress page = ram_.Allocate(kPage, kPage);
        ASSERT_EQ(::mprotect(ram_.Host(page), kPage, PROT_NONE), 0);
        ring(kTransmitQueue)
            .Chain()
            .Readable(std::as_bytes(std::span(&header, 1)))
            .At(page, 1000, /*writable=*/false)
            .Publish();
        break;
      }
    }
    device_->Notify(kTransmitQueue);
  }

  // Until the guest has its packet back, or `otherwise`.
  bool WaitUntilUsedOr(const std::function<bool()>& otherwise) {
    const absl::Time end = absl::Now() + kDeadline;
    while (absl::Now() < end) {
      if (ring(kTransmitQueue).TakeUsed().has_value()) return was_used_ = true;
      if (otherwise()) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }

  bool was_used_ = false;
};

// Pages that are not there are not for a process to drop: it would die of looking at them, and a
// guest cannot take them away.
class HostileTransmitToProcessTest : public HostileTransmitTest {};

TEST_P(HostileTransmitToProcessTest, IsDroppedByThisProcessWhereTheWorkerSpins) {
  BringUp(OffloadPolicy::kPrefer);
  if (HasFatalFailure()) return;
  SendHostile();
  ASSERT_TRUE(WaitUntilUsedOr([] { return false; })) << "the guest never got its packet back";
  EXPECT_EQ(device_->status() & device_status::kNeedsReset, 0) << device_->Report().problem;
  const bool moved = Serving() == BackendKind::kInProcess;
  EXPECT_TRUE(moved || !KernelIsKnownToSpin());
  if (moved) {
    EXPECT_TRUE(WaitFor(EventKind::kSpin));
    EXPECT_TRUE(WaitFor(EventKind::kHandover));
    const DeviceReport report = device_->Report();
    uint64_t drops = 0;
    for (const BackendVringReport& vring : report.backend->vrings) {
      if (vring.queue != kTransmitQueue || !vring.data_path.has_value()) continue;
      for (const DropReport& drop : vring.data_path->drops) drops += drop.packets;
    }
    EXPECT_EQ(drops, 1u);
  }
  // The others of the queue are sent.
  std::vector<std::byte> good(kHeader);
  const std::vector<std::byte> frame = Wire::Frame("good");
  good.insert(good.end(), frame.begin(), frame.end());
  ring(kTransmitQueue).Chain().Readable(good).Publish();
  device_->Notify(kTransmitQueue);
  EXPECT_EQ(wire_->Receive(kPatienceMs).value_or("nothing"), "good");
}

TEST_P(HostileTransmitTest, StopsTheDeviceWhereNobodyElseMayServe) {
  BringUp(OffloadPolicy::kRequire);
  if (HasFatalFailure()) return;
  SendHostile();
  const auto is_stopped = [this] { return (device_->status() & device_status::kNeedsReset) != 0; };
  ASSERT_TRUE(WaitUntilUsedOr(is_stopped)) << "neither dropped nor stopped";
  EXPECT_TRUE(is_stopped() || !KernelIsKnownToSpin());
  if (!is_stopped()) return;
  EXPECT_TRUE(WaitFor(EventKind::kSpin));
  EXPECT_TRUE(WaitFor(EventKind::kNeedsReset));
  EXPECT_THAT(device_->Report().problem, testing::HasSubstr("uses its CPU time for nothing"));
  // The worker is left alone with nothing to do.
  EXPECT_FALSE(device_->Report().backend->running);
  // And the driver can begin anew.
  device_->WriteStatus(0);
  EXPECT_EQ(device_->status(), 0);
}

std::string InputName(const testing::TestParamInfo<Input>& input) {
  switch (input.param) {
    case Input::kShorterThanTheHeader:
      return "ShorterThanTheHeader";
    case Input::kChecksumBeyondTheFrame:
      return "ChecksumBeyondTheFrame";
    case Input::kUnmappedPages:
      return "UnmappedPages";
  }
  return "Unknown";
}
INSTANTIATE_TEST_SUITE_P(Inputs, HostileTransmitTest,
                         testing::Values(Input::kShorterThanTheHeader,
                                         Input::kChecksumBeyondTheFrame, Input::kUnmappedPages),
                         InputName);
INSTANTIATE_TEST_SUITE_P(Inputs, HostileTransmitToProcessTest,
                         testing::Values(Input::kShorterThanTheHeader,
                                         Input::kChecksumBeyondTheFrame),
                         InputName);

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Network queues that go from one backend to another and back while frames pass: none lost, none
// twice, each queue in order. Between vhost-net and this process where there is a vhost-net, and
// everywhere between two backends of this process, which shows as much of what the moving does.
#include <gmock/gmock.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/net_machine.h"
#include "vhost/device/backend_selector.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

// Another backend, by the name of the kernel's.
class InKernelsClothes final : public Backend {
 public:
  explicit InKernelsClothes(std::unique_ptr<Backend> inside) : inside_(std::move(inside)) {}
  BackendKind kind() const override { return BackendKind::kKernel; }
  VirtioFeatures Supported(VirtioFeatures wanted) const override {
    return inside_->Supported(wanted);
  }
  absl::Status CheckMemory(const MemoryTable& memory) const override {
    return inside_->CheckMemory(memory);
  }
  absl::Status Prepare(const BackendStart& start) override { return inside_->Prepare(start); }
  absl::Status Start(const BackendStart& start) override { return inside_->Start(start); }
  std::vector<StoppedVring> Stop() override { return inside_->Stop(); }
  absl::Status StartVring(const BackendVring& vring) override { return inside_->StartVring(vring); }
  absl::StatusOr<VringBase> StopVring(int queue) override { return inside_->StopVring(queue); }
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory) override {
    return inside_->SetMemory(memory);
  }
  absl::Status SetCall(int queue, int call_fd) override { return inside_->SetCall(queue, call_fd); }
  int error_fd(int queue) const override { return inside_->error_fd(queue); }
  void CountError(int queue) override { inside_->CountError(queue); }
  BackendReport Report() const override { return inside_->Report(); }

 private:
  std::unique_ptr<Backend> inside_;
};

class HandoverTest : public NetMachineTest, public testing::WithParamInterface<bool> {
 protected:
  HandoverTest() : NetMachineTest(GetParam() ? kernel_abi::kVhostNetPath : "/dev/net/tun") {}

  void MakeBackends(int pairs) {
    for (int i = 0; i < 2 * pairs; ++i) AddQueue();
    MakeTap(pairs);
    if (HasFatalFailure()) return;
    const auto in_process = [this]() -> absl::StatusOr<std::unique_ptr<Backend>> {
      return inprocess::InProcessNetBackend::Create(kernel_, {.tap_fds = tap_->fds()});
    };
    std::vector<BackendCandidate> candidates;
    if (GetParam()) {
      candidates.push_back(
          {BackendKind::kKernel,
           NetBackend::Create(kernel_, NetBackendOptions{.tap_fds = tap_->fds()})});
    } else {
      auto inside = in_process();
      ASSERT_TRUE(inside.ok()) << inside.status();
      candidates.push_back(
          {BackendKind::kKernel, std::make_unique<InKernelsClothes>(*std::move(inside))});
    }
    candidates.push_back({BackendKind::kInProcess, in_process()});
    auto selector = BackendSelector::Create(OffloadPolicy::kPrefer, std::move(candidates));
    ASSERT_TRUE(selector.ok()) << selector.status();
    selector_ = std::make_unique<BackendSelector>(*std::move(selector));
    start_ = AllQueues(kAcked);
    ASSERT_TRUE(selector_->Start(start_).ok());
  }

  // Moves to and fro until it is told to end; on a thread of its own.
  void MoveAbout(uint32_t seed) {
    std::minstd_rand random(seed);
    while (!done_) {
      const BackendKind to = selector_->running()->kind() == BackendKind::kKernel
                                 ? BackendKind::kInProcess
                                 : BackendKind::kKernel;
      BackendStart start = start_;
      const BackendSelector::Moved moved =
          selector_->MoveTo(**selector_->Find(to), start, start.memory, "test");
      if (!moved.status.ok()) {
        ADD_FAILURE() << moved.status;
        return;
      }
      longest_us_ = std::max(longest_us_, *moved.stopped_us);
      ++moves_;
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    }
  }

  // The thread; it ends before the test does, however that ends.
  class Mover {
   public:
    Mover(HandoverTest& test, uint32_t seed)
        : test_(test), thread_([&test, seed] { test.MoveAbout(seed); }) {}
    ~Mover() { End(); }
    void End() {
      test_.done_ = true;
      if (thread_.joinable()) thread_.join();
    }

   private:
    HandoverTest& test_;
    std::thread thread_;
  };

  std::unique_ptr<BackendSelector> selector_;
  BackendStart start_;
  std::atomic<bool> done_ = false;
  std::atomic<int> moves_ = 0;
  uint64_t longest_us_ = 0;
};

TEST_P(HandoverTest, LosesNoFrameAndKeepsTheOrder) {
  constexpr int kFrames = 20'000;
  MakeBackends(1);
  if (HasFatalFailure()) return;
  PostReceiveBuffers(0, 200);
  Mover mover(*this, 1);
  int sent = 0;
  int arrived = 0;  // at the wire
  int received = 0;
  int answered = 0;  // sent by the wire
  while (arrived < kFrames || received < kFrames) {
    // A window, so that neither side's queue overflows: that would be a loss of another kind.
    for (; sent < kFrames && sent < arrived + 50; ++sent) {
      Transmit(1, absl::StrCat("to wire ", sent));
    }
    for (; answered < kFrames && answered < received + 50; ++answered) {
      ASSERT_TRUE(wire_->Send(absl::StrCat("to guest ", answered)));
    }
    if (arrived < kFrames) {
      const auto text = wire_->Receive(kPatienceMs);
      ASSERT_EQ(text.value_or("nothing"), absl::StrCat("to wire ", arrived)) << moves_ << " moves";
      ++arrived;
    }
    WaitForRoom(1);
    if (received < kFrames) {
      ASSERT_EQ(ReceiveText(0), absl::StrCat("to guest ", received)) << moves_ << " moves";
      ++received;
    }
  }
  mover.End();
  EXPECT_GT(moves_, 50);
  RecordProperty("moves", moves_);
  RecordProperty("longest_stop_us", static_cast<int>(longest_us_));
}

TEST_P(HandoverTest, TwoQueuePairsMoveTogether) {
  constexpr int kFrames = 5'000;
  MakeBackends(2);
  if (HasFatalFailure()) return;
  PostReceiveBuffers(0, 100);
  PostReceiveBuffers(2, 100);
  Mover mover(*this, 2);
  std::vector<int> next(2);
  for (int i = 0; i < kFrames; ++i) {
    for (int pair = 0; pair < 2; ++pair) Transmit(2 * pair + 1, absl::StrCat(pair, " ", i));
    // Each pair's frames in their order; the pairs' order among each other is nobody's promise.
    for (int k = 0; k < 2; ++k) {
      const std::string text = wire_->Receive(kPatienceMs).value_or("9 nothing");
      const auto pair = static_cast<size_t>(text[0] - '0');
      ASSERT_LT(pair, 2u) << "frame " << i << ", " << moves_ << " moves: " << text;
      EXPECT_EQ(text, absl::StrCat(pair, " ", next[pair]++));
    }
    WaitForRoom(1);
    WaitForRoom(3);
  }
  mover.End();
  EXPECT_GT(moves_, 5);
}

INSTANTIATE_TEST_SUITE_P(, HandoverTest, testing::Values(false, true), [](const auto& test) {
  return test.param ? "KernelAndProcess" : "InsideTheProcess";
});

}  // namespace
}  // namespace vhost

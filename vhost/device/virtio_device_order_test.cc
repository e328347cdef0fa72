// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Whatever driver and host do to a device, in whatever order: what is served, by whom, from where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/device/echo_model_fixture.h"
#include "vhost/device/virtio_device.h"

namespace vhost {
namespace {

constexpr int kQueues = 4;  // the backends'; one more is the device's own
constexpr int kSteps = 4000;

// Does something at random, and keeps what must have come of it.
class Oracle {
 public:
  explicit Oracle(uint32_t seed) : random_(seed) {
    rig_.failover.back_off_ms = 0;  // Failed backends are tried again at the next start.
    auto model = std::make_unique<EchoModel>();
    model_ = model.get();
    rig_.BuildBoth(std::move(model), kQueues);
    rig_.Ack({VirtioFeature::kVersion1, VirtioFeature::kRingReset});
    for (int queue = 0; queue <= kQueues; ++queue) rig_.AddQueue(queue);
    for (int queue = 0; queue <= kQueues; ++queue) enabled_.insert(queue);
    // Used again for each life: the guest's memory is not without end.
    rig_.device->WriteStatus(fakes::DeviceRig::kRunning);
    ready_ = true;
    serves_ = BackendKind::kKernel;
  }

  void Step() {
    Progress();
    using Action = void (Oracle::*)();
    static constexpr std::array<Action, 11> kActions = {
        &Oracle::ResetQueue, &Oracle::EnableQueue,    &Oracle::SwitchPair,   &Oracle::ChangeMemory,
        &Oracle::Handover,   &Oracle::Pause,          &Oracle::Resume,       &Oracle::Restart,
        &Oracle::RingError,  &Oracle::FailedHandover, &Oracle::RefusedMemory};
    (this->*kActions[Pick(kActions.size())])();
    rig_.loop.Pump();
    Check();
  }
  const std::string& log() const { return log_; }

 private:
  VirtioDevice& device() { return *rig_.device; }
  size_t Pick(size_t count) { return random_() % count; }
  int PickQueue() { return static_cast<int>(Pick(kQueues)); }
  void Log(std::string what) {
    log_.append(what).append("\n");
    if (log_.size() > 2000) log_.erase(0, 1000);
  }
  fakes::FakeBackend::State& StateOf(BackendKind kind) {
    return kind == BackendKind::kKernel ? *rig_.state : *rig_.process;
  }
  static BackendKind Other(BackendKind kind) {
    return kind == BackendKind::kKernel ? BackendKind::kInProcess : BackendKind::kKernel;
  }
  bool runs() const { return ready_ && !paused_; }
  bool active(int queue) const { return enabled_.contains(queue) && (queue < 2 || second_pair_); }
  std::set<int> Served() const {
    std::set<int> served;
    for (int queue = 0; runs() && queue < kQueues; ++queue) {
      if (active(queue)) served.insert(queue);
    }
    return served;
  }

  // The backend gets on with what it serves.
  void Progress() {
    StateOf(Other(serves_)).reached.clear();
    for (const int queue : Served()) {
      position_[queue] = static_cast<uint16_t>(position_[queue] + Pick(300));
    }
    StateOf(serves_).reached.clear();
    for (const int queue : Served()) StateOf(serves_).reached[queue] = position_[queue];
  }

  // ---- What the driver does ----
  void ResetQueue() {
    const int queue = PickQueue();
    Log(absl::StrCat("reset queue ", queue));
    device().ResetQueue(queue);
    enabled_.erase(queue);
    position_[queue] = 0;
    StateOf(serves_).reached.erase(queue);
  }
  void EnableQueue() {
    const int queue = PickQueue();
    if (enabled_.contains(queue) || !ready_) return;
    Log(absl::StrCat("enable queue ", queue));
    device().WriteQueueSetup(queue, rig_.rings.at(queue)->setup());
    device().EnableQueue(queue);
    enabled_.insert(queue);
  }
  void SwitchPair() {
    Log("switch pair");
    second_pair_ = !second_pair_;
    EXPECT_TRUE(model_->SetSecondPair(second_pair_).ok());
  }
  void Restart() {
    Log("restart");
    device().WriteStatus(0);
    enabled_.clear();
    position_.clear();
    StateOf(serves_).reached.clear();
    second_pair_ = false;
    rig_.Ack({VirtioFeature::kVersion1, VirtioFeature::kRingReset});
    for (int queue = 0; queue <= kQueues; ++queue) {
      if (queue != kQueues && Pick(4) == 0) continue;
      rig_.rings.at(queue)->Forget();
      device().WriteQueueSetup(queue, rig_.rings.at(queue)->setup());
      device().EnableQueue(queue);
      enabled_.insert(queue);
    }
    device().WriteStatus(fakes::DeviceRig::kRunning);
    ready_ = true;
    resume_on_.reset();
    if (!paused_) serves_ = asked_.value_or(BackendKind::kKernel);
  }

  // ---- What the host does ----
  void ChangeMemory() {
    Log(more_in_ ? "remove memory" : "add memory");
    EXPECT_TRUE((more_in_ ? rig_.memory.Remove(more_.region().start, more_.region().size)
                          : rig_.memory.Add(more_.region()))
                    .ok());
    more_in_ = !more_in_;
  }
  void Handover() {
    const BackendKind to = Pick(2) == 0 ? BackendKind::kKernel : BackendKind::kInProcess;
    Log(absl::StrCat("handover to ", Name(to)));
    EXPECT_TRUE(device().Handover(to, "test").ok());
    asked_ = to;
    if (runs()) serves_ = to;
    if (!runs()) resume_on_.reset();
  }
  void Pause() {
    Log("pause");
    if (runs()) resume_on_ = serves_;
    device().Pause("test");
    paused_ = true;
  }
  void Resume() {
    Log("resume");
    const bool starts = ready_ && paused_;
    EXPECT_TRUE(device().Resume().ok());
    paused_ = false;
    if (!starts) return;
    serves_ = resume_on_.value_or(asked_.value_or(BackendKind::kKernel));
    resume_on_.reset();
  }

  // ---- What goes wrong ----
  void RingError() {
    const std::set<int> served = Served();
    if (served.empty()) return;
    Log(absl::StrCat("ring error from ", Name(serves_)));
    if (serves_ == BackendKind::kKernel) {
      rig_.backend->SignalError(*served.begin());
      rig_.loop.Pump();
      serves_ = BackendKind::kInProcess;
      if (asked_ == BackendKind::kKernel) asked_.reset();
    } else {
      rig_.process_backend->SignalError(*served.begin());
      rig_.loop.Pump();
      EXPECT_NE(device().status() & device_status::kNeedsReset, 0);
      ready_ = false;
    }
  }
  void FailedHandover() {
    if (!runs()) return;
    const BackendKind to = Other(serves_);
    Log(absl::StrCat("failing handover to ", Name(to)));
    absl::Status& error = Pick(2) == 0 ? StateOf(to).start_error : StateOf(to).prepare_error;
    error = absl::InternalError("not now");
    EXPECT_FALSE(device().Handover(to, "test").ok());
    error = absl::OkStatus();
  }
  void RefusedMemory() {
    if (!runs() || more_in_) return;
    Log(absl::StrCat("memory that ", Name(serves_), " refuses"));
    StateOf(serves_).memory_error = absl::ResourceExhaustedError("too many regions");
    EXPECT_TRUE(rig_.memory.Add(more_.region()).ok());
    StateOf(serves_).memory_error = absl::OkStatus();
    more_in_ = true;
    serves_ = Other(serves_);
  }

  void Check() {
    EXPECT_EQ(StateOf(serves_).running, runs());
    EXPECT_FALSE(StateOf(Other(serves_)).running);
    const bool needs_reset = (device().status() & device_status::kNeedsReset) != 0;
    EXPECT_EQ(needs_reset, !ready_) << rig_.Problem();
    if (!runs()) return;
    const fakes::FakeBackend::State& state = StateOf(serves_);
    EXPECT_EQ(state.memory, rig_.memory.table());
    std::set<int> served;
    for (const auto& [queue, vring] : state.vrings) {
      served.insert(queue);
      EXPECT_EQ(vring.kick_fd, device().kick_fd(queue));
      EXPECT_EQ(vring.call_fd, device().call_fd(queue));
      // Where it was given the ring, or where it has got to since.
      const auto reached = state.reached.find(queue);
      EXPECT_EQ(reached != state.reached.end() ? reached->second : vring.base, position_[queue])
          << "queue " << queue;
    }
    EXPECT_EQ(served, Served());
  }

  std::minstd_rand random_;
  fakes::DeviceRig rig_{"echo0"};
  fakes::GuestRam more_{1 << 16, 0x8000'0000};
  EchoModel* model_ = nullptr;
  std::string log_;

  bool ready_ = false;  // DRIVER_OK, and no reset needed
  bool paused_ = false;
  bool second_pair_ = false;
  bool more_in_ = false;
  std::set<int> enabled_;
  std::map<int, uint16_t> position_;
  BackendKind serves_ = BackendKind::kKernel;  // or served last
  std::optional<BackendKind> asked_;
  std::optional<BackendKind> resume_on_;
};

class DeviceOrderTest : public ::testing::TestWithParam<uint32_t> {};

TEST_P(DeviceOrderTest, ServesWhatItMustFromWhereItMust) {
  Oracle oracle(GetParam());
  for (int step = 0; step < kSteps; ++step) {
    oracle.Step();
    if (HasFailure()) FAIL() << "after step " << step << ":\n" << oracle.log();
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, DeviceOrderTest, ::testing::Range(1u, 6u));

}  // namespace
}  // namespace vhost

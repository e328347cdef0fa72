// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A whole control plane with a network device on a TAP, whose driver is this process.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/integration/net_machine.h"
#include "vhost/control_plane.h"

namespace vhost {

class PlaneMachineTest : public NetMachineTest {
 protected:
  static constexpr int kReceiveQueue = 0;
  static constexpr int kTransmitQueue = 1;

  explicit PlaneMachineTest(const char* node) : NetMachineTest(node) {}

  // The device is driven up to DRIVER_OK. What the options say of memory and events is set.
  void BringUp(ControlPlaneOptions plane_options, NetOptions net_options,
               VirtioFeatures features = kAcked) {
    ASSERT_TRUE(guest_memory_.Add(ram_.region()).ok());
    plane_options.memory = &guest_memory_;
    plane_options.on_event = [this](const DeviceEvent& event, uint64_t /*dropped*/) {
      Note(event.kind);
    };
    auto plane = ControlPlane::Create(std::move(plane_options));
    ASSERT_TRUE(plane.ok()) << plane.status();
    plane_ = *std::move(plane);
    const std::string tap = net_options.tap.name;
    auto device = plane_->AddNet(std::move(net_options));
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *device;
    auto links = Links::Open();
    ASSERT_TRUE(links.ok() && links->SetUp(tap, true).ok());
    wire_.emplace(links->Get(tap)->index);
    ASSERT_TRUE(wire_->ok());

    using namespace device_status;  // NOLINT: names of the field
    device_->WriteStatus(kAcknowledge);
    device_->WriteStatus(kAcknowledge | kDriver);
    device_->WriteDriverFeatures(0, static_cast<uint32_t>(features.low()));
    device_->WriteDriverFeatures(1, static_cast<uint32_t>(features.low() >> 32));
    device_->WriteStatus(kAcknowledge | kDriver | kFeaturesOk);
    for (int queue = 0; queue < 2; ++queue) {
      AddQueue();
      device_->WriteQueueSetup(queue, ring(queue).setup());
      device_->EnableQueue(queue);
    }
    device_->WriteStatus(kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
    ASSERT_NE(device_->status() & kDriverOk, 0) << device_->Report().problem;
  }

  void Note(EventKind kind) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(kind);
  }
  bool Saw(EventKind kind) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return std::find(events_.begin(), events_.end(), kind) != events_.end();
  }
  // Events come on another thread.
  bool WaitFor(EventKind kind) {
    return Wait([&] {
      absl::SleepFor(absl::Milliseconds(5));
      return Saw(kind);
    });
  }
  BackendKind Serving() const { return device_->Report().backend->kind; }
  fakes::DriverRing& ring(int queue) { return queues_[static_cast<size_t>(queue)]->ring; }

  GuestMemory guest_memory_;
  absl::Mutex mutex_;
  std::vector<EventKind> events_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ControlPlane> plane_;
  VirtioDevice* device_ = nullptr;
};

}  // namespace vhost

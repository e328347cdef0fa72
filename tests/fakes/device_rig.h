// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/device/backend_selector.h"
#include "vhost/device/device_model.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/watchdog.h"
#include "vhost/event_relay.h"
#include "vhost/guest_memory.h"

namespace fakes {

// A device with all that is around it, and a driver that brings it up as Linux does.
class DeviceRig {
 public:
  class Interrupts final : public vhost::Interrupter {
   public:
    void ConfigChanged() override { ++changes; }
    int changes = 0;
  };

  static constexpr uint8_t kAgreed = vhost::device_status::kAcknowledge |
                                     vhost::device_status::kDriver |
                                     vhost::device_status::kFeaturesOk;
  static constexpr uint8_t kRunning = kAgreed | vhost::device_status::kDriverOk;

  explicit DeviceRig(std::string name) : name_(std::move(name)) {
    EXPECT_TRUE(memory.Add(ram.region()).ok());
  }

  void Build(std::unique_ptr<vhost::DeviceModel> model, int backend_queues) {
    std::vector<vhost::BackendCandidate> candidates;
    candidates.push_back(Candidate(vhost::BackendKind::kKernel, backend_queues));
    Assemble(std::move(model), vhost::OffloadPolicy::kRequire, std::move(candidates));
  }
  // With one backend in the kernel, preferred, and one in the process. Both can be made anew.
  void BuildBoth(std::unique_ptr<vhost::DeviceModel> model, int backend_queues) {
    std::vector<vhost::BackendCandidate> candidates;
    for (const auto kind : {vhost::BackendKind::kKernel, vhost::BackendKind::kInProcess}) {
      candidates.push_back(Candidate(kind, backend_queues));
      candidates.back().make = [this, kind, backend_queues] {
        return std::move(Candidate(kind, backend_queues).backend);
      };
    }
    Assemble(std::move(model), vhost::OffloadPolicy::kPrefer, std::move(candidates));
  }

  // Negotiates as far as FEATURES_OK.
  void Ack(vhost::VirtioFeatures features) {
    device->WriteStatus(vhost::device_status::kAcknowledge);
    device->WriteStatus(vhost::device_status::kAcknowledge | vhost::device_status::kDriver);
    device->WriteDriverFeatures(0, static_cast<uint32_t>(features.low()));
    device->WriteDriverFeatures(1, static_cast<uint32_t>(features.low() >> 32));
    device->WriteDriverFeatures(2, static_cast<uint32_t>(features.high()));
    device->WriteStatus(kAgreed);
  }
  DriverRing& AddQueue(int queue, uint16_t size = 16) {
    const vhost::VirtioFeatures acked = device->acked();
    rings[queue] = std::make_unique<DriverRing>(
        ram, DriverRing::Options{.size = size,
                                 .event_idx = acked.Has(vhost::VirtioFeature::kEventIdx),
                                 .packed = acked.Has(vhost::VirtioFeature::kRingPacked),
                                 .in_order = acked.Has(vhost::VirtioFeature::kInOrder)});
    device->WriteQueueSetup(queue, rings[queue]->setup());
    device->EnableQueue(queue);
    return *rings[queue];
  }
  // Up to DRIVER_OK, with the first `queues` queues (-1: all).
  void BringUp(vhost::VirtioFeatures features, int queues = -1) {
    Ack(features);
    for (int q = 0; q < (queues < 0 ? device->queue_count() : queues); ++q) AddQueue(q);
    device->WriteStatus(kRunning);
    ASSERT_EQ(device->status(), kRunning) << device->Report().problem;
    loop.Pump();
  }
  // Kicks a queue that the device serves itself, and lets it work.
  void Kick(int queue) {
    device->Notify(queue);
    loop.Pump();
  }
  std::vector<int> OnBackend() const {
    std::vector<int> queues;
    for (const auto& [queue, vring] : state->vrings) queues.push_back(queue);
    return queues;
  }
  std::string Problem() const { return device->Report().problem; }

  GuestRam ram;
  vhost::GuestMemory memory;
  ManualLoop loop;
  vhost::FailoverOptions failover;  // of the device that is built next
  // Of the one in the kernel; and of the one in the process, if there is one.
  std::shared_ptr<FakeBackend::State> state = std::make_shared<FakeBackend::State>();
  std::shared_ptr<FakeBackend::State> process = std::make_shared<FakeBackend::State>();
  FakeBackend* backend = nullptr;
  FakeBackend* process_backend = nullptr;
  absl::Status make_error;  // why no backend can be made
  int made = 0;
  std::vector<vhost::DeviceEvent> events;  // once the loop was pumped
  Interrupts interrupts;
  std::unique_ptr<vhost::EventRelay> relay;
  std::unique_ptr<vhost::Watchdog> watchdog;  // of the device that is built next; nullptr: none
  std::map<int, std::unique_ptr<DriverRing>> rings;
  std::unique_ptr<vhost::VirtioDevice> device;  // dies first

 private:
  vhost::BackendCandidate Candidate(vhost::BackendKind kind, int queues) {
    if (!make_error.ok()) return {kind, make_error};
    ++made;
    const bool kernel = kind == vhost::BackendKind::kKernel;
    auto fake = std::make_unique<FakeBackend>(kernel ? state : process, kind, queues);
    (kernel ? backend : process_backend) = fake.get();
    return {kind, std::move(fake)};
  }
  void Assemble(std::unique_ptr<vhost::DeviceModel> model, vhost::OffloadPolicy policy,
                std::vector<vhost::BackendCandidate> candidates) {
    device = nullptr;
    if (relay == nullptr) {
      relay = *vhost::EventRelay::Create(
          kernel_abi::LinuxKernel(), loop,
          [this](const vhost::DeviceEvent& event, uint64_t) { events.push_back(event); });
    }
    auto selector = vhost::BackendSelector::Create(policy, std::move(candidates));
    ASSERT_TRUE(selector.ok()) << selector.status();
    auto created = vhost::VirtioDevice::Create({.name = name_,
                                                .kernel = &kernel_abi::LinuxKernel(),
                                                .memory = &memory,
                                                .loop = &loop,
                                                .model = std::move(model),
                                                .backends = *std::move(selector),
                                                .failover = failover,
                                                .events = relay.get(),
                                                .watchdog = watchdog.get()});
    ASSERT_TRUE(created.ok()) << created.status();
    device = *std::move(created);
    device->SetInterrupter(&interrupts, "test");
  }

  std::string name_;
};

}  // namespace fakes

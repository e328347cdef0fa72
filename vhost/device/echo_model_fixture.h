// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the tests of VirtioDevice share: a device model that is as simple as one can be, in a rig.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/device_rig.h"
#include "vhost/device/device_model.h"

namespace vhost {

// Two queue pairs for the backend, of which the second can be switched on and off, and a queue of
// its own that answers each chain with the bytes in it.
class EchoModel final : public DeviceModel {
 public:
  static constexpr int kLocalQueue = 4;

  DeviceId id() const override { return DeviceId::kNet; }
  int queue_count() const override { return 5; }
  uint16_t queue_max_size(int) const override { return 64; }
  QueueRole role(int queue, VirtioFeatures) const override {
    return {.name = absl::StrCat("q", queue),
            .local = queue == kLocalQueue,
            .prompt = queue == prompt_queue};
  }
  VirtioFeatures features() const override {
    return VirtioFeatures{VirtioFeature::kVersion1,  VirtioFeature::kEventIdx,
                          VirtioFeature::kRingReset, VirtioFeature::kNetMrgRxbuf,
                          VirtioFeature::kNetCsum,   VirtioFeature::kNetGuestUdpTunnelGso} |
           more_features;
  }
  absl::Status CheckFeatures(VirtioFeatures acked) const override {
    return acked.Has(VirtioFeature::kNetCsum) && !acked.Has(VirtioFeature::kNetMrgRxbuf)
               ? absl::InvalidArgumentError("CSUM without MRG_RXBUF")
               : absl::OkStatus();
  }
  std::vector<std::byte> config() const override {
    return {config_bytes.begin(), config_bytes.end()};
  }
  void WriteConfig(uint32_t offset, std::span<const std::byte> from) override {
    std::copy(from.begin(), from.end(), config_bytes.begin() + offset);
  }
  absl::Status Prepare(VirtioFeatures acked) override {
    prepared = acked;
    return prepare_error;
  }
  bool is_active(int queue) const override { return queue < 2 || second_pair; }
  absl::StatusOr<bool> Serve(int, inprocess::Virtqueue& ring) override {
    ++served;
    do {
      ring.DisableKicks();
      inprocess::Chain chain;
      while (ring.Take(chain)) {
        std::vector<std::byte> bytes(chain.readable_bytes());
        if (!chain.Read(0, bytes).ok()) return absl::InternalError("read");
        if (!chain.Write(0, bytes).ok()) return absl::InvalidArgumentError("no room to answer");
        chain.Return(static_cast<uint32_t>(bytes.size()));
      }
      if (!ring.broken().ok()) return ring.broken();
      ring.SignalUsed();
    } while (ring.EnableKicks());
    return false;
  }
  void Reset() override {
    second_pair = false;
    config_bytes = {};
    prepared.reset();
  }
  void Describe(DeviceReport& report) const override { report.guest_cid = 42; }

  absl::Status SetSecondPair(bool on) {
    absl::Status status;
    Locked([&] {
      const bool before = std::exchange(second_pair, on);
      status = host()->ApplyActiveQueues();
      if (!status.ok()) second_pair = before;
    });
    return status;
  }
  void ChangeConfig() {
    Locked([&] {
      config_bytes[0] = std::byte{9};
      host()->ConfigChanged();
    });
  }

  std::array<std::byte, 8> config_bytes{};
  std::optional<VirtioFeatures> prepared;
  absl::Status prepare_error;
  bool second_pair = false;
  int served = 0;
  int prompt_queue = -1;
  VirtioFeatures more_features;
};

// A device of that model, before a driver has touched it.
class VirtioDeviceTest : public ::testing::Test {
 protected:
  static constexpr int kLocalQueue = EchoModel::kLocalQueue;
  static constexpr uint8_t kAgreed = fakes::DeviceRig::kAgreed;
  static constexpr uint8_t kRunning = fakes::DeviceRig::kRunning;

  VirtioDeviceTest() { Build(); }
  void Build() {
    auto model = std::make_unique<EchoModel>();
    model_ = model.get();
    rig_.Build(std::move(model), 4);
  }
  static VirtioFeatures Plain() { return {VirtioFeature::kVersion1, VirtioFeature::kRingReset}; }
  // As a driver with all five queues does.
  void BringUp() { rig_.BringUp(Plain()); }
  VirtioDevice& device() { return *rig_.device; }
  fakes::DriverRing& local_ring() { return *rig_.rings.at(kLocalQueue); }

  fakes::DeviceRig rig_{"echo0"};
  EchoModel* model_ = nullptr;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The socket device (virtio 1.3, 5.10): the guest's CID, and the event queue. Connections and their
// packets (queues 0, receive, and 1, transmit) are the backend's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vhost/device/device_model.h"

namespace vhost {

struct VsockDeviceOptions {
  uint64_t guest_cid = 0;     // 3 to 2^32 - 2: the one that the backend has
  uint16_t queue_size = 256;  // entries of a receive or transmit queue, at most
  VirtioFeatures withheld;    // not to be offered, although they could be
};

class VsockDevice final : public DeviceModel {
 public:
  // INVALID_ARGUMENT names the option that is wrong.
  static absl::StatusOr<std::unique_ptr<VsockDevice>> Create(VsockDeviceOptions options);

  // ---- For the host. Any thread, for as long as the device lives ----
  // All connections are gone, and the CID is `guest_cid` from now on: after a move to another
  // backend or host. Sent when the driver gives room for it; a reset of the device is news enough
  // by itself, and ends the waiting. INVALID_ARGUMENT for a CID that a guest cannot have.
  absl::Status SendTransportReset(uint64_t guest_cid);

  // ---- DeviceModel ----
  DeviceId id() const override { return DeviceId::kVsock; }
  int queue_count() const override { return 3; }
  uint16_t queue_max_size(int queue) const override;
  QueueRole role(int queue, VirtioFeatures acked) const override;
  VirtioFeatures features() const override;
  absl::Status CheckFeatures(VirtioFeatures acked) const override;
  std::vector<std::byte> config() const override;
  void WriteConfig(uint32_t, std::span<const std::byte>) override {}  // 5.10.4: read-only
  absl::Status Prepare(VirtioFeatures) override { return absl::OkStatus(); }
  bool is_active(int) const override { return true; }
  absl::StatusOr<bool> Serve(int queue, inprocess::Virtqueue& ring) override;
  // Connections live in a backend, and no other knows them: the driver is told to end them.
  void BackendChanged(BackendKind from, BackendKind to) override;
  void Save(DeviceState& state) const override;
  // The connections are gone, and the CID is this device's: the driver learns both by an event.
  absl::Status Restore(const DeviceState& state) override;
  void Reset() override { reset_pending_ = false; }
  void Describe(DeviceReport& report) const override { report.guest_cid = guest_cid_; }

 private:
  explicit VsockDevice(const VsockDeviceOptions& options)
      : options_(options), guest_cid_(options.guest_cid) {}

  const VsockDeviceOptions options_;
  // Guarded by the device's lock.
  uint64_t guest_cid_;
  // One event tells as much as many.
  bool reset_pending_ = false;
};

}  // namespace vhost

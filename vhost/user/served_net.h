// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A network device for a vhost-user front end: queue pairs between the driver and a TAP of ours.
// The control queue, the MAC address and the link status are the front end's. Offloads are set
// once, by the features acked: the protocol has no message for changing them later, so that
// VIRTIO_NET_F_CTRL_GUEST_OFFLOADS is not offered.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/device/tap_port.h"
#include "vhost/host/tap.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/user/served_device.h"

namespace vhost::user {

struct ServedNetOptions {
  TapOptions tap;  // as many queue pairs as it has queues
  // `tap_fds` and what else concerns the TAP is set here.
  inprocess::InProcessNetOptions backend;
  VirtioFeatures withheld;  // not to be offered, although they could be
};

class ServedNet final : public ServedDevice {
 public:
  static absl::StatusOr<std::unique_ptr<ServedNet>> Create(kernel_abi::Kernel& kernel,
                                                           ServedNetOptions options);

  const Tap& tap() const { return port_->tap(); }

  DeviceId id() const override { return DeviceId::kNet; }
  Backend& backend() override { return *backend_; }
  int queue_count() const override { return 2 * pairs(); }
  uint64_t queue_number() const override { return static_cast<uint64_t>(pairs()); }
  bool is_discarded_when_disabled(int queue) const override { return queue % 2 == 1; }
  VirtioFeatures features() const override { return features_; }
  absl::Status CheckFeatures(VirtioFeatures acked) const override;
  absl::Status Prepare(VirtioFeatures acked) override;
  absl::Status QueueStarts(int queue) override;
  void QueueStopped(int queue) override;
  bool is_net() const override { return true; }
  absl::Status SetMtu(uint64_t mtu) override;
  absl::Status SendRarp(const MacAddress& mac) override;

 private:
  ServedNet(std::unique_ptr<TapPort> port, std::unique_ptr<inprocess::InProcessNetBackend> backend,
            VirtioFeatures features)
      : port_(std::move(port)), backend_(std::move(backend)), features_(features) {}
  int pairs() const { return port_->queue_pairs(); }

  const std::unique_ptr<TapPort> port_;
  // Is lent the TAP's fds, and goes first.
  const std::unique_ptr<inprocess::InProcessNetBackend> backend_;
  const VirtioFeatures features_;
  int header_bytes_ = 0;  // 0: no driver yet
};

}  // namespace vhost::user

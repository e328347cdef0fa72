// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The network device (virtio 1.3, 5.1): MAC, MTU, link status, queue pairs, offloads, and the
// control queue. Packets are the backend's matter; what lies behind it is a NetPort.
//
// Queues: 2p receives and 2p + 1 transmits for pair p. The control queue is the one behind the last
// pair, or queue 2 for a driver that did not negotiate VIRTIO_NET_F_MQ (5.1.2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vhost/device/device_model.h"
#include "vhost/device/mac_address.h"
#include "vhost/device/net_control.h"
#include "vhost/device/net_port.h"
#include "vhost/device/receive_filter.h"

namespace vhost {

struct NetDeviceOptions {
  MacAddress mac{};
  std::optional<uint16_t> mtu;  // bytes, 68 to 65535; what the driver is told, if anything
  int queue_pairs = 1;          // 1 to 32768, and no more than the port has
  uint16_t queue_size = 256;    // entries of a receive or transmit queue, at most
  bool link_up = true;
  VirtioFeatures withheld;  // not to be offered, although they could be
};

class NetDevice final : public DeviceModel, private NetControlTarget {
 public:
  // INVALID_ARGUMENT names the option that is wrong.
  static absl::StatusOr<std::unique_ptr<NetDevice>> Create(std::unique_ptr<NetPort> port,
                                                           NetDeviceOptions options);

  // ---- For the host. Any thread, for as long as the device lives ----
  // What a driver that negotiated VIRTIO_NET_F_STATUS sees; others believe the link up.
  void SetLinkUp(bool up);
  // Asks the guest to announce itself on the network, after it moved (VIRTIO_NET_F_GUEST_ANNOUNCE).
  // False if its driver does not know how.
  bool Announce();

  // ---- DeviceModel ----
  DeviceId id() const override { return DeviceId::kNet; }
  int queue_count() const override;
  uint16_t queue_max_size(int queue) const override;
  QueueRole role(int queue, VirtioFeatures acked) const override;
  VirtioFeatures features() const override { return features_; }
  absl::Status CheckFeatures(VirtioFeatures acked) const override;
  std::vector<std::byte> config() const override;
  void WriteConfig(uint32_t, std::span<const std::byte>) override {}  // 5.1.4: all is read-only
  void WriteLegacyConfig(uint32_t offset, std::span<const std::byte> from) override;
  absl::Status Prepare(VirtioFeatures acked) override;
  bool is_active(int queue) const override { return queue < 2 * active_pairs_; }
  absl::StatusOr<bool> Serve(int queue, inprocess::Virtqueue& ring) override;
  int host_fd() const override { return port_->link_fd(); }
  std::optional<HostChange> ReadHostChange() override;
  void Save(DeviceState& state) const override;
  absl::Status Restore(const DeviceState& state) override;
  void Reset() override;
  void Describe(DeviceReport& report) const override;

 private:
  NetDevice(std::unique_ptr<NetPort> port, NetDeviceOptions options);
  VirtioFeatures WantedFeatures() const;
  absl::Status Answer(inprocess::Chain chain);

  // NetControlTarget.
  int max_queue_pairs() const override { return options_.queue_pairs; }
  absl::Status SetQueuePairs(int pairs) override;
  absl::Status SetGuestOffloads(VirtioFeatures offloads) override;
  void ReceiveFilterChanged() override;
  void AnnounceAcked() override;
  absl::Status AttachPairs(int from, int to, bool attached);
  // What a driver sees.
  bool link_is_up() const { return link_up_ && port_link_.exists && port_link_.up; }

  const std::unique_ptr<NetPort> port_;
  const NetDeviceOptions options_;
  const VirtioFeatures features_;

  // Guarded by the device's lock.
  bool link_up_;  // as the host wants it
  // As the port has it. Before it changes for the first time it is believed up: whoever makes the
  // TAP may bring it up only later.
  NetPort::Link link_seen_;
  NetPort::Link port_link_;
  bool announce_ = false;
  VirtioFeatures acked_;           // while it runs
  VirtioFeatures guest_offloads_;  // as the driver has them now
  int active_pairs_ = 1;
  ReceiveFilter filter_;
  std::string filter_applied_by_;
};

}  // namespace vhost

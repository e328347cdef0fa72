// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a driver has made of a device, as plain values: enough to go on with another device object
// of the same type, in this process or another, over the same guest memory. Not in it: the memory,
// what the transport knows (interrupt vectors), who serves the vrings, and what lies behind the
// device (a TAP's frames, connections).
//
// VirtioDevice::SaveState and RestoreState are the two ends; vhost/control/state_json.h writes and
// reads it. It comes from outside, so a restore checks everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vhost/features.h"
#include "vhost/report.h"
#include "vhost/vring.h"

namespace vhost {

struct QueueState {
  int queue = 0;
  bool enabled = false;
  VringSetup setup;
  std::optional<uint32_t> base;  // VringBase; nullopt: the queue has not been served yet
};

struct NetState {
  std::string mac;  // as the driver sees it, or has set it
  int active_queue_pairs = 1;
  bool announce = false;  // the driver has been asked to announce itself and has not acked that
  VirtioFeatures guest_offloads;  // those that are on
  ReceiveFilterReport receive_filter;
};

struct VsockState {
  uint64_t guest_cid = 0;
};

struct DeviceState {
  static constexpr uint32_t kVersion = 1;

  uint32_t version = kVersion;
  DeviceId id = DeviceId::kNet;
  uint8_t status = 0;  // virtio device status
  VirtioFeatures acked;
  uint32_t config_generation = 0;
  std::vector<QueueState> queues;
  std::optional<NetState> net;
  std::optional<VsockState> vsock;
};

}  // namespace vhost

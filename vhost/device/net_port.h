// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>

#include "absl/status/status.h"
#include "vhost/device/receive_filter.h"
#include "vhost/report.h"

namespace vhost {

// Work on packets that one side leaves to the other.
struct NetOffloads {
  bool csum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;  // TSO of segments with ECN
  bool ufo = false;
  bool uso4 = false;
  bool uso6 = false;

  friend bool operator==(const NetOffloads&, const NetOffloads&) = default;
};

// What is behind a network device's queues, seen from the device: a TAP of ours (tap_port.h), or
// whatever a VMM has opened and configured. The frames are no matter of this interface: they pass
// between the port and whoever serves the vrings.
//
// Thread safety: a device calls with its lock held, one call at a time.
class NetPort {
 public:
  virtual ~NetPort() = default;

  // Queue pairs that it has room for, at least 1.
  virtual int queue_pairs() const = 0;
  // Packets that it can deliver to a guest unfinished, and take from one. Constant.
  virtual NetOffloads to_guest() const = 0;
  virtual NetOffloads from_guest() const = 0;

  // The size of virtio's header before each packet: 10 or 12 bytes. Before queues run.
  virtual absl::Status SetHeaderBytes(int bytes) = 0;
  // What it may deliver to the guest unfinished from now on: a subset of to_guest().
  virtual absl::Status SetOffloads(const NetOffloads& offloads) = 0;
  // Whether packets are delivered to queue pair `pair`, and taken from it. A pair that is attached
  // and not read loses what is steered to it. No-op if it is so already.
  virtual absl::Status SetQueueAttached(int pair, bool attached) = 0;
  // Frames that the guest does not want need not be delivered. The answer is who saw to it ("tap"),
  // or why nobody did ("nobody: ..."); there is no failure, since delivering all is always right.
  virtual std::string SetReceiveFilter(const ReceiveFilter& filter) = 0;

  // Whether frames can pass at all, as far as the host says.
  struct Link {
    bool exists = true;
    bool up = true;  // administratively
    friend bool operator==(const Link&, const Link&) = default;
  };
  // An fd that is readable when ReadLink() may answer differently; -1: it never does, or nobody
  // would notice. Constant.
  virtual int link_fd() const { return -1; }
  // Never waits.
  virtual Link ReadLink() { return {}; }

  virtual TapReport Report() const = 0;
};

}  // namespace vhost

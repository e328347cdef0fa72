// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a back end serves to a front end: a device without its transport. The driver's side of it
// (status, negotiation, config space as the driver sees it, a control queue) is the front end's;
// here are the features that it may offer, the rings' backend, and what the front end asks for.
//
// A new device of another process is one class of these over a Backend (see
// docs/writing-a-backend.md); served_net.h and served_vsock.h are those of this library.
//
//   Prepare(acked) -> QueueStarts(0), QueueStarts(1) ... QueueStopped(...) -> Prepare, and again
//
// Thread safety: called on the server's event loop, one call at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "vhost/backend.h"
#include "vhost/device/mac_address.h"
#include "vhost/features.h"

namespace vhost::user {

class ServedDevice {
 public:
  virtual ~ServedDevice() = default;

  virtual DeviceId id() const = 0;
  // Serves the rings. The same for the device's life, stopped whenever no front end has any ring.
  virtual Backend& backend() = 0;
  // Virtqueues that a front end may set up, at most 256.
  virtual int queue_count() const = 0;
  // Whether the backend serves it. Another one may be set up and started, and nothing happens.
  virtual bool is_served(int queue) const { return queue < queue_count(); }
  // What GET_QUEUE_NUM answers: queue pairs of a network device, virtqueues of others.
  virtual uint64_t queue_number() const { return static_cast<uint64_t>(queue_count()); }
  // True where the driver may go on adding buffers to a queue that is disabled, which are thrown
  // away then (frames to be sent).
  virtual bool is_discarded_when_disabled(int queue) const {
    static_cast<void>(queue);
    return false;
  }

  // That a driver may ack. The same for the device's life.
  virtual VirtioFeatures features() const = 0;
  // INVALID_ARGUMENT where the choice makes no sense for this type.
  virtual absl::Status CheckFeatures(VirtioFeatures acked) const {
    static_cast<void>(acked);
    return absl::OkStatus();
  }

  // The configuration space; empty where it is all the front end's. Always of the same size.
  virtual std::vector<std::byte> config() const { return {}; }
  // Within config()'s size. `for_migration`: fields may be written that a driver may not.
  virtual absl::Status WriteConfig(uint32_t offset, std::span<const std::byte> from,
                                   bool for_migration) {
    static_cast<void>(offset);
    static_cast<void>(from);
    static_cast<void>(for_migration);
    return absl::PermissionDeniedError("the configuration space is read-only");
  }

  // The first ring is about to run, with these features; none runs now.
  virtual absl::Status Prepare(VirtioFeatures acked) {
    static_cast<void>(acked);
    return absl::OkStatus();
  }
  // The rings begin at their first entry, or the device was reset: whatever was remembered of a
  // driver before is of no meaning any more.
  virtual void DriverIsNew() {}
  // Around the time that a ring runs.
  virtual absl::Status QueueStarts(int queue) {
    static_cast<void>(queue);
    return absl::OkStatus();
  }
  virtual void QueueStopped(int queue) { static_cast<void>(queue); }

  // ---- Of network devices ----
  // Whether NET_SET_MTU and SEND_RARP are understood.
  virtual bool is_net() const { return false; }
  virtual absl::Status SetMtu(uint64_t mtu) {
    static_cast<void>(mtu);
    return absl::UnimplementedError("no network device");
  }
  // The guest of this address is here now: tells the network.
  virtual absl::Status SendRarp(const MacAddress& mac) {
    static_cast<void>(mac);
    return absl::UnimplementedError("no network device");
  }
};

}  // namespace vhost::user

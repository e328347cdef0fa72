// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What makes a device a network device, a socket device ...: its features, its configuration space,
// the roles of its queues, and the queues that it serves itself. VirtioDevice is the rest, the same
// for all: status, feature negotiation, vrings, backends. A new device type is a new DeviceModel.
//
// Life: CheckFeatures -> Prepare -> queues run (Serve, is_active) -> Reset, and again.
//
// Thread safety: the device calls its model with the device's lock held, one call at a time. What a
// model offers to the host side (a link going down, a transport reset) may be called from any
// thread and enters through DeviceHost::Locked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhost/device/device_state.h"
#include "vhost/features.h"
#include "vhost/inprocess/virtqueue.h"
#include "vhost/report.h"

namespace vhost {

// What a model may ask of the device that it is in. All but Locked are called with the lock held.
class DeviceHost {
 public:
  virtual ~DeviceHost() = default;
  // Runs `action` with the device's lock held.
  virtual void Locked(const std::function<void()>& action) = 0;
  // The configuration space reads differently from now on: tells the driver, if one runs.
  virtual void ConfigChanged() = 0;
  // is_active() answers differently for some queue: starts and stops vrings accordingly. On an
  // error all is as it was before, so the model has to take its change back.
  virtual absl::Status ApplyActiveQueues() = 0;
  // Has Serve called for `queue` soon, on the event loop, if the queue runs.
  virtual void KickQueue(int queue) = 0;
};

struct QueueRole {
  std::string name;    // "rx0", "control"
  bool local = false;  // served by the model, never by a backend
  // What the driver makes available needs nothing but the backend to be used (a transmit queue), so
  // that standing still is a failure.
  bool prompt = false;
};

class DeviceModel {
 public:
  virtual ~DeviceModel() = default;

  virtual DeviceId id() const = 0;
  virtual int queue_count() const = 0;
  virtual uint16_t queue_max_size(int queue) const = 0;
  // May depend on what was negotiated (virtio 1.3, 5.1.2: where the control queue is).
  virtual QueueRole role(int queue, VirtioFeatures acked) const = 0;

  // What this device would offer if its backend could serve anything. The same for its whole life.
  virtual VirtioFeatures features() const = 0;
  // Whether the driver's choice makes sense for this type; it is a subset of what was offered.
  virtual absl::Status CheckFeatures(VirtioFeatures acked) const = 0;

  // The whole configuration space, as it reads now; always of the same size.
  virtual std::vector<std::byte> config() const = 0;
  virtual void WriteConfig(uint32_t offset, std::span<const std::byte> from) = 0;
  // The same from a driver from before virtio 1, to which more may be writable. It lies inside.
  virtual void WriteLegacyConfig(uint32_t offset, std::span<const std::byte> from) {
    WriteConfig(offset, from);
  }

  // The driver set DRIVER_OK: sets up what stands behind the queues for `acked`, before any starts.
  virtual absl::Status Prepare(VirtioFeatures acked) = 0;
  // Whether a queue that was enabled and belongs to a backend is to be served at the moment.
  virtual bool is_active(int queue) const = 0;
  // An fd that is readable when something has changed on the host's side of the device (a TAP that
  // went down, or away); -1: there is none. The same for its whole life.
  virtual int host_fd() const { return -1; }
  // Reads what has changed, as far as it is worth telling. Never waits.
  struct HostChange {
    bool is_lost;  // nothing can pass any more
    std::string text;
  };
  virtual std::optional<HostChange> ReadHostChange() { return std::nullopt; }

  // The driver is served by a backend of another kind than a moment ago. Queues run.
  virtual void BackendChanged(BackendKind from, BackendKind to) {
    static_cast<void>(from);
    static_cast<void>(to);
  }
  // Serves a local queue. Called after a start, after a kick, and as KickQueue asked. Takes no more
  // chains than the ring is long: true asks to be called again, once others had their turn. An
  // error is the driver's fault, and the end until it resets the device.
  virtual absl::StatusOr<bool> Serve(int queue, inprocess::Virtqueue& ring) = 0;
  // What the driver has set, and back, after Prepare and before queues run. A state comes from
  // outside: Restore checks it, and after an error Reset is called.
  virtual void Save(DeviceState& state) const { static_cast<void>(state); }
  virtual absl::Status Restore(const DeviceState& state) {
    static_cast<void>(state);
    return absl::OkStatus();
  }
  // Nothing runs: all that the driver set is as after creation.
  virtual void Reset() = 0;

  // Adds what only this type knows.
  virtual void Describe(DeviceReport& report) const = 0;

  // Called once, by the device, which owns the model.
  void SetHost(DeviceHost* host) { host_ = host; }

 protected:
  // nullptr before the model is in a device.
  DeviceHost* host() const { return host_; }
  void Locked(const std::function<void()>& action) const {
    host_ != nullptr ? host_->Locked(action) : action();
  }

 private:
  DeviceHost* host_ = nullptr;
};

}  // namespace vhost

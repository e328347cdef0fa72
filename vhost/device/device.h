// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtio device as its transport sees it: the registers that every transport offers in its own
// way, and two eventfds a queue. A VMM with transports of its own drives a device through this
// interface; our transports (vhost/transport/) do nothing else.
//
// Rules of the state machine are virtio 1.3, 2.1 and 3.1. All numbers may come from a guest: what
// the rules forbid is ignored or answered with DEVICE_NEEDS_RESET, never with an assertion.
//
// Thread safety: any thread, any time (vCPU threads do). Calls that start or stop a backend
// (WriteStatus, ResetQueue, EnableQueue) block for its duration, milliseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "vhost/features.h"
#include "vhost/report.h"
#include "vhost/vring.h"

namespace vhost {

// Device status bits (virtio 1.3, 2.1).
namespace device_status {
inline constexpr uint8_t kAcknowledge = 1;
inline constexpr uint8_t kDriver = 2;
inline constexpr uint8_t kDriverOk = 4;
inline constexpr uint8_t kFeaturesOk = 8;
inline constexpr uint8_t kNeedsReset = 64;
inline constexpr uint8_t kFailed = 128;
}  // namespace device_status

// What a device asks of the transport that shows it to the guest.
class Interrupter {
 public:
  virtual ~Interrupter() = default;
  // A configuration change interrupt. Called from any thread, with the device's lock held: it must
  // not call the device and must not wait. (Used-buffer interrupts go through the call eventfds.)
  virtual void ConfigChanged() = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const std::string& name() const = 0;  // "net0"
  virtual DeviceId device_id() const = 0;

  // Whom to tell of configuration changes; nullptr for nobody. Set before the guest runs. The
  // description stands in reports ("virtio-pci 00:01.0").
  virtual void SetInterrupter(Interrupter* interrupter, std::string transport) = 0;

  virtual VirtioFeatures offered() const = 0;
  // What a driver from before virtio 1 is offered, which sees 32 bits (virtio 1.3, 6.3 has those
  // that it alone knows).
  virtual VirtioFeatures offered_to_legacy() const = 0;
  virtual VirtioFeatures acked() const = 0;
  // 32 bits of what the driver accepts; `word` 0 to 3. Ignored once FEATURES_OK is set.
  virtual void WriteDriverFeatures(uint32_t word, uint32_t bits) = 0;

  virtual uint8_t status() const = 0;
  // 0 resets: when it returns nothing is served, everything is as after creation and the device is
  // silent. FEATURES_OK does not stick if the features cannot be served together.
  virtual void WriteStatus(uint8_t status) = 0;
  // The same through a legacy interface (2.2.3, 3.1.1). Its driver does not know FEATURES_OK: what
  // it acked counts from DRIVER_OK on, as far as it was offered; queues may be reset one by one,
  // and WriteConfig takes what only such drivers may write. It is a legacy driver until the next
  // reset if the first status after a reset came this way.
  virtual void WriteLegacyStatus(uint8_t status) = 0;

  virtual int queue_count() const = 0;
  // Queue indices out of range read as 0 and ignore writes.
  virtual uint16_t queue_max_size(int queue) const = 0;
  virtual VringSetup queue_setup(int queue) const = 0;
  virtual void WriteQueueSetup(int queue, const VringSetup& setup) = 0;  // ignored once enabled
  virtual bool queue_enabled(int queue) const = 0;
  virtual void EnableQueue(int queue) = 0;
  // Queue reset (VIRTIO_F_RING_RESET, or a legacy driver's): stops that queue alone. When it
  // returns the queue is served no more, not enabled, and its setup is as after a reset of the
  // device.
  virtual void ResetQueue(int queue) = 0;

  // Device configuration space, little endian. Reads beyond the end give zeros.
  virtual void ReadConfig(uint32_t offset, std::span<std::byte> to) const = 0;
  virtual void WriteConfig(uint32_t offset, std::span<const std::byte> from) = 0;
  virtual uint32_t config_size() const = 0;  // bytes
  // Changes whenever the configuration space did (virtio 1.3, 2.5.1).
  virtual uint32_t config_generation() const = 0;

  // The queue's two eventfds: made with the device, the same for its whole life, non-blocking. A
  // transport has KVM signal the kick one and inject on the call one.
  virtual int kick_fd(int queue) const = 0;
  virtual int call_fd(int queue) const = 0;
  // Makes one eventfd the call eventfd of all queues, so that whoever listens to that of queue 0
  // hears all: for a transport that has one interrupt for everything. Before the guest runs and
  // before call_fd() was asked for. False if this device cannot do that; nothing has changed then.
  virtual bool ShareCallFd() { return false; }
  // A guest notification that came as an exit: signals the kick eventfd.
  virtual void Notify(int queue) = 0;

  // What is known of the device, wiring apart (the transport adds its own).
  virtual DeviceReport Report() const = 0;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtio device as a block of memory-mapped registers, version 2 (virtio 1.3, 4.2), or version 1,
// which is the legacy interface (4.2.4). A VMM gives
// it 4 KiB of guest addresses and an edge-triggered interrupt of its own, tells the guest of both
// (ACPI LNRO0005, device tree), routes accesses there to Read and Write, and calls Reset when the
// machine is reset.
//
// Notifications: the one notify register is bound to each queue's kick eventfd by the value
// written.
//
// Interrupts: one irqfd, so all queues and the configuration signal one eventfd. Two irqfds at one
// pin would not do: KVM raises and lowers a pin in two steps, and of two edges at the same time one
// is lost. A device that can signal one call eventfd for all queues (Device::ShareCallFd) is
// delivered without this process; for others a relay on the event loop joins the eventfds.
//
// InterruptStatus: whoever serves the rings (vhost) cannot set a bit here, so the used-buffer bit
// reads as set while queues are live. A driver that finds nothing in its rings goes on; a bit that
// was missing would leave it waiting for ever.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "vhost/device/device.h"
#include "vhost/event_loop.h"
#include "vhost/transport/queue_notifiers.h"
#include "vhost/transport/virtio_mmio_legacy.h"
#include "vhost/transport/wiring.h"

namespace vhost {

struct VirtioMmioOptions {
  uint64_t address = 0;  // guest address of the registers
  uint32_t gsi = 0;      // edge triggered, not shared
  // Version 1, for drivers from before virtio 1: only types that were there then
  // (TransitionalPciId).
  bool legacy = false;
};

// Thread safety: any thread; vCPU threads call at the same time. Writes that stop a backend block
// for as long as that takes; a notification never waits for them.
class VirtioMmio final : private Interrupter {
 public:
  static constexpr uint64_t kBytes = 0x1000;

  // Everything lent must outlive the transport. It becomes the device's interrupter. An interrupt
  // that cannot be wired is an error; a notify register that cannot is served by exits.
  // INVALID_ARGUMENT: a type that has no legacy interface is to have one.
  static absl::StatusOr<std::unique_ptr<VirtioMmio>> Create(kernel_abi::Kernel& kernel,
                                                            Device& device, Wiring& wiring,
                                                            EventLoop& loop,
                                                            const VirtioMmioOptions& options);
  // Undoes all wiring. The device goes on; the guest no longer sees it.
  ~VirtioMmio() override;

  // `offset` is into the registers. Control registers are accessed with aligned accesses of 4
  // bytes (4.2.2.2); others read as 0 and write nothing. Configuration space takes any.
  void Read(uint64_t offset, std::span<std::byte> to);
  void Write(uint64_t offset, std::span<const std::byte> from);

  // As after power-on. When it returns the device is silent.
  void Reset();

  // The device's report, with how it is wired.
  DeviceReport Report() const;
  std::vector<WiringReport> DescribeWiring() const;

 private:
  VirtioMmio(kernel_abi::Kernel& kernel, Device& device, Wiring& wiring,
             const VirtioMmioOptions& options)
      : kernel_(kernel),
        device_(device),
        options_(options),
        notifiers_(wiring, device),
        legacy_(device) {}

  absl::Status WireInterrupt(Wiring& wiring, EventLoop& loop);
  void ConfigChanged() override;  // Interrupter: any thread, no lock

  uint32_t ReadRegister(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t ReadQueueRegister(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t DeviceFeatures() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteStatus(uint8_t status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteQueueRegister(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetQueue(int queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t InterruptStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  kernel_abi::Kernel& kernel_;
  Device& device_;
  const VirtioMmioOptions options_;

  // The eventfd that the irqfd takes: that of queue 0 where the device shares it, else our own.
  int interrupt_fd_ = -1;
  std::unique_ptr<kernel_abi::EventFd> joined_event_;
  std::unique_ptr<Registration> interrupt_;
  std::vector<std::unique_ptr<Watch>> relays_;  // call eventfd -> joined_event_
  std::atomic<bool> config_changed_ = false;    // InterruptStatus bit 1

  mutable absl::Mutex mutex_;
  QueueNotifiers notifiers_;  // guarded, but for Notify()
  VirtioMmioLegacy legacy_ ABSL_GUARDED_BY(mutex_);
  uint32_t device_features_select_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t driver_features_select_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t queue_select_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vhost

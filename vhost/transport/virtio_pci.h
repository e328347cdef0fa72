// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtio device as a PCI function (virtio 1.3, 4.1): modern, transitional or legacy. It is put
// together from one part a topic, and only decides which part an access is for:
//
//   PciConfigSpace   header, BARs, capabilities        MsixTable, MsixDelivery   MSI-X
//   VirtioPciLayout  where what is                     Intx                      the pin and ISR
//   VirtioPciCommon  the common configuration          QueueNotifiers            ioeventfds
//   VirtioPciLegacy  the registers from before virtio 1
//
// What a VMM does with it is in pci_function.h. Once the guest has placed the BARs and MSI-X is on,
// notifications and interrupts of queues pass this object by: ioeventfd in, irqfd out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "vhost/device/device.h"
#include "vhost/event_loop.h"
#include "vhost/transport/intx.h"
#include "vhost/transport/msix_delivery.h"
#include "vhost/transport/pci_config_space.h"
#include "vhost/transport/pci_function.h"
#include "vhost/transport/queue_notifiers.h"
#include "vhost/transport/virtio_pci_common.h"
#include "vhost/transport/virtio_pci_layout.h"
#include "vhost/transport/virtio_pci_legacy.h"
#include "vhost/transport/wiring.h"

namespace vhost {

struct VirtioPciOptions {
  // Only types that were there before virtio 1 can be other than modern (TransitionalPciId).
  VirtioPciForm form = VirtioPciForm::kModern;
  std::string location;              // in reports: "00:01.0"
  std::optional<uint32_t> intx_gsi;  // the line of INTA; none: the function has no pin
  // MSI-X vectors, 0 to 2048; default: one a queue and one for the configuration. 0: no MSI-X.
  std::optional<uint16_t> vectors;
};

// Thread safety: as PciFunction. Calls of the guest's that reset the device block for as long as
// its backend takes to stop; a notification never waits for them.
class VirtioPci final : public PciFunction,
                        private Interrupter,
                        private VirtioPciCommon::Function,
                        private VirtioPciLegacy::Function {
 public:
  // Everything lent must outlive the function. It becomes the device's interrupter.
  // INVALID_ARGUMENT: too many vectors, or a type that has no legacy interface; RESOURCE_EXHAUSTED:
  // no eventfd.
  static absl::StatusOr<std::unique_ptr<VirtioPci>> Create(kernel_abi::Kernel& kernel,
                                                           Device& device, Wiring& wiring,
                                                           EventLoop& loop,
                                                           const VirtioPciOptions& options);
  // Undoes all wiring. The device goes on; the guest no longer sees it.
  ~VirtioPci() override;

  void ConfigRead(uint32_t offset, std::span<std::byte> to) override;
  void ConfigWrite(uint32_t offset, std::span<const std::byte> from) override;
  std::vector<PciBar> bars() const override;
  void SetBarListener(BarListener listener) override;
  void BarRead(int bar, uint64_t offset, std::span<std::byte> to) override;
  void BarWrite(int bar, uint64_t offset, std::span<const std::byte> from) override;
  absl::Status PlaceBar(int bar, uint64_t address) override;
  void Reset() override;

  // The device's report, with how it is wired.
  DeviceReport Report() const;
  std::vector<WiringReport> DescribeWiring() const;

 private:
  class Entry;
  VirtioPci(kernel_abi::Kernel& kernel, Device& device, Wiring& wiring, EventLoop& loop,
            const VirtioPciOptions& options, uint16_t vectors, kernel_abi::EventFd config_event);

  void ConfigChanged() override;  // Interrupter: any thread, no lock

  // VirtioPciCommon::Function and VirtioPciLegacy::Function
  void WriteStatus(uint8_t status) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteLegacyStatus(uint8_t status) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Notify(uint64_t queue) override { legacy_notifiers_.Notify(queue); }
  uint8_t ReadIsr() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return intx_.ReadIsr(); }
  bool msix_enabled() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return msix_.table().enabled();
  }
  void ResetQueue(int queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint16_t vector(int source) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetVector(int source, uint16_t vector) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void ReadBar(int bar, uint64_t offset, std::span<std::byte> to)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteBar(int bar, uint64_t offset, std::span<const std::byte> from)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // If the access touches the window's data register: does what it asks for.
  void ReadWindow(uint32_t offset, size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteWindow(uint32_t offset, size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<uint32_t> WindowBytes(uint32_t offset, size_t size) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetTransport() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Follow configuration space and status where they were written.
  void UpdateMsix() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateIntx() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateBars() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The ioeventfds follow a BAR that has an address and is not being sized.
  void UpdateNotifiers(const PciBar& bar) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Device& device_;
  const kernel_abi::EventFd config_event_;  // the configuration's "call eventfd"

  mutable absl::Mutex mutex_;
  PciConfigSpace space_ ABSL_GUARDED_BY(mutex_);
  MsixDelivery msix_ ABSL_GUARDED_BY(mutex_);
  const VirtioPciLayout layout_;
  const VirtioPciCapabilities capabilities_;
  VirtioPciCommon common_ ABSL_GUARDED_BY(mutex_);
  VirtioPciLegacy legacy_ ABSL_GUARDED_BY(mutex_);
  Intx intx_;                        // guarded, but for NoteConfigChange()
  QueueNotifiers notifiers_;         // guarded, but for Notify()
  QueueNotifiers legacy_notifiers_;  // likewise
  BarListener bar_listener_ ABSL_GUARDED_BY(mutex_);
  std::vector<PciBar> told_bars_ ABSL_GUARDED_BY(mutex_);  // as the listener knows them
  // Watches that ended with the lock held: destroyed by Entry when it has been released, because
  // their callbacks take it.
  Intx::Watches ended_watches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost

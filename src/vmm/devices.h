// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The virtio devices of the machine: where the library is used. Four steps, all in devices.cc:
//
//   1. a ControlPlane for the VM's memory          (once)
//   2. a VmWiring for the VM's fd                  (once)
//   3. AddNet, AddVsock: a device with its backend
//   4. VirtioPci or VirtioMmio around it, on our bus
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "src/vmm/acpi.h"
#include "src/vmm/bus.h"
#include "src/vmm/options.h"
#include "src/vmm/pci_host.h"
#include "src/vmm/pci_hotplug.h"
#include "src/vmm/vm.h"
#include "vhost/control_plane.h"
#include "vhost/kvm/vm_wiring.h"

namespace vmm {

// Devices on PCI may come and go while the guest runs: vhostctl asks for it (Plug, Unplug), the
// guest lets go of a device (PciHotplug), and the thread that made this removes it (RemoveEjected).
//
// One thread makes, resets and destroys it; the guest's accesses and vhostctl's requests come from
// other threads meanwhile.
class Devices final : public vhost::DevicePlugger {
 public:
  // All that is lent must outlive the devices. An error names the device.
  static absl::StatusOr<std::unique_ptr<Devices>> Create(kernel_abi::Kernel& kernel, Vm& vm,
                                                         Bus& memory, Bus& ports, PciHost& pci,
                                                         const Options& options);
  // No vCPU may run any more, and the VM is closed next.
  ~Devices() override;
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  // What the guest's ACPI tables have to say of those that are not on PCI.
  const std::vector<AcpiMachine::VirtioMmio>& virtio_mmio() const { return virtio_mmio_; }
  // Where vhostctl reaches them; empty if it does not.
  std::string control_socket_path() const { return control_plane_->control_socket_path(); }

  // Those that are not on PCI (PciHost resets its functions), and what hot-plug has pending.
  void Reset();

  // Readable when the guest has let go of devices, which RemoveEjected then destroys.
  int ejected_fd() const { return ejected_event_.get(); }
  void RemoveEjected() ABSL_LOCKS_EXCLUDED(mutex_);

  // DevicePlugger: what --device takes, on PCI.
  absl::StatusOr<std::string> Plug(absl::string_view description) override
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Unplug(absl::string_view device) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class PciDevice;
  class MmioDevice;
  Devices(kernel_abi::Kernel& kernel, Vm& vm, Bus& memory, Bus& ports, PciHost& pci,
          kernel_abi::EventFd ejected_event);

  // The guest lets go of a slot; on a vCPU's thread.
  void Eject(uint32_t slot);
  absl::Status Add(const DeviceOption& option) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<vhost::VirtioDevice*> MakeDevice(const DeviceOption& option)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AttachToPci(vhost::VirtioDevice& device, const DeviceOption& option)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AttachToMmio(vhost::VirtioDevice& device, const DeviceOption& option);
  std::string NameOf(const DeviceOption& option) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  kernel_abi::Kernel& kernel_;
  Bus& memory_;
  Bus& ports_;
  PciHost& pci_;
  PciHotplug hotplug_;
  const kernel_abi::EventFd ejected_event_;
  std::atomic<uint32_t> ejected_slots_ = 0;  // a bit a slot: hidden from the guest, to be removed
  std::unique_ptr<vhost::ControlPlane> control_plane_;
  std::unique_ptr<vhost::kvm::VmWiring> wiring_;
  absl::Mutex mutex_;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;  // nobody plugs any more
  std::vector<std::unique_ptr<PciDevice>> pci_devices_ ABSL_GUARDED_BY(mutex_);
  // Names of those that were made and could not be attached.
  std::vector<std::string> left_over_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<MmioDevice>> mmio_devices_;
  std::vector<AcpiMachine::VirtioMmio> virtio_mmio_;
  std::map<std::string, int> made_ ABSL_GUARDED_BY(mutex_);  // by the stem of their ids
};

}  // namespace vmm

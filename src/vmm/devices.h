// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The virtio devices of the machine: where the library is used. Four steps, all in devices.cc:
//
//   1. a ControlPlane for the VM's memory          (once)
//   2. a VmWiring for the VM's fd                  (once)
//   3. AddNet, AddVsock: a device with its backend
//   4. VirtioPci or VirtioMmio around it, on our bus
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/kernel.h"
#include "src/vmm/acpi.h"
#include "src/vmm/bus.h"
#include "src/vmm/options.h"
#include "src/vmm/pci_host.h"
#include "src/vmm/vm.h"
#include "vhost/control_plane.h"
#include "vhost/kvm/vm_wiring.h"

namespace vmm {

// One thread makes, resets and destroys it; the guest's accesses and vhostctl's questions come from
// other threads meanwhile.
class Devices {
 public:
  // All that is lent must outlive the devices. An error names the device.
  static absl::StatusOr<std::unique_ptr<Devices>> Create(kernel_abi::Kernel& kernel, Vm& vm,
                                                         Bus& memory, PciHost& pci,
                                                         const Options& options);
  // No vCPU may run any more, and the VM is closed next.
  ~Devices();
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  // What the guest's ACPI tables have to say of those that are not on PCI.
  const std::vector<AcpiMachine::VirtioMmio>& virtio_mmio() const { return virtio_mmio_; }
  // Where vhostctl reaches them; empty if it does not.
  std::string control_socket_path() const { return control_plane_->control_socket_path(); }

  // Those that are not on PCI (PciHost resets its functions).
  void ResetMmio();

 private:
  class PciDevice;
  class MmioDevice;
  Devices(kernel_abi::Kernel& kernel, Bus& memory, PciHost& pci);

  absl::Status Add(const DeviceOption& option);
  absl::StatusOr<vhost::VirtioDevice*> MakeDevice(const DeviceOption& option);
  absl::Status AttachToPci(vhost::VirtioDevice& device, const DeviceOption& option);
  absl::Status AttachToMmio(vhost::VirtioDevice& device);
  std::string NameOf(const DeviceOption& option);

  kernel_abi::Kernel& kernel_;
  Bus& memory_;
  PciHost& pci_;
  std::unique_ptr<vhost::ControlPlane> control_plane_;
  std::unique_ptr<vhost::kvm::VmWiring> wiring_;
  std::vector<std::unique_ptr<PciDevice>> pci_devices_;
  std::vector<std::unique_ptr<MmioDevice>> mmio_devices_;
  std::vector<AcpiMachine::VirtioMmio> virtio_mmio_;
  std::map<std::string, int> made_;  // by the stem of their ids
};

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/devices.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/device_options.h"
#include "src/vmm/event_log.h"
#include "src/vmm/layout.h"
#include "src/vmm/user_device_options.h"
#include "vhost/transport/virtio_mmio.h"
#include "vhost/transport/virtio_pci.h"

namespace vmm {

// A device on PCI: the library's transport is a PCI function already, so all that is left is to
// have it on the bus for as long as it lives.
class Devices::PciDevice {
 public:
  PciDevice(vhost::ControlPlane& control_plane, PciHost& host, std::string name, uint32_t slot,
            std::unique_ptr<vhost::VirtioPci> function)
      : control_plane_(control_plane),
        host_(host),
        name_(std::move(name)),
        slot_(slot),
        function_(std::move(function)) {}
  ~PciDevice() {
    (void)control_plane_.SetReportSource(name_, nullptr);
    host_.Remove(slot_);
  }

  const std::string& name() const { return name_; }
  uint32_t slot() const { return slot_; }

  absl::Status Plug() {
    if (absl::Status status = host_.Add(slot_, name_, *function_); !status.ok()) return status;
    return control_plane_.SetReportSource(name_, [this] { return function_->Report(); });
  }

 private:
  vhost::ControlPlane& control_plane_;
  PciHost& host_;
  const std::string name_;
  const uint32_t slot_;
  const std::unique_ptr<vhost::VirtioPci> function_;
};

// A device on the memory bus.
class Devices::MmioDevice final : public BusDevice {
 public:
  MmioDevice(vhost::ControlPlane& control_plane, Bus& memory, std::string name, uint64_t address,
             std::unique_ptr<vhost::VirtioMmio> registers)
      : control_plane_(control_plane),
        memory_(memory),
        name_(std::move(name)),
        address_(address),
        registers_(std::move(registers)) {}
  ~MmioDevice() override {
    (void)control_plane_.SetReportSource(name_, nullptr);
    memory_.Remove(address_);
  }

  absl::Status Plug() {
    absl::Status status = memory_.Insert(name_, address_, vhost::VirtioMmio::kBytes, *this);
    if (!status.ok()) return status;
    return control_plane_.SetReportSource(name_, [this] { return registers_->Report(); });
  }
  void Reset() { registers_->Reset(); }

  void Read(uint64_t offset, std::span<std::byte> data) override { registers_->Read(offset, data); }
  void Write(uint64_t offset, std::span<const std::byte> data) override {
    registers_->Write(offset, data);
  }

 private:
  vhost::ControlPlane& control_plane_;
  Bus& memory_;
  const std::string name_;
  const uint64_t address_;
  const std::unique_ptr<vhost::VirtioMmio> registers_;
};

namespace {

vhost::EventRelay::Observer PrintEvents(bool all) {
  return [all](const vhost::DeviceEvent& event, uint64_t) {
    if (all || IsWarning(event)) std::fprintf(stderr, "vmm: %s\n", EventLine(event).c_str());
  };
}

}  // namespace

Devices::Devices(kernel_abi::Kernel& kernel, Vm& vm, Bus& memory, Bus& ports, PciHost& pci,
                 kernel_abi::EventFd ejected_event)
    : kernel_(kernel),
      memory_(memory),
      ports_(ports),
      pci_(pci),
      hotplug_({.interrupt =
                    [&vm] {
                      vm.SetInterrupt(kHotplugGsi, true);
                      vm.SetInterrupt(kHotplugGsi, false);
                    },
                .eject = [this](uint32_t slot) { Eject(slot); }}),
      ejected_event_(std::move(ejected_event)) {}

absl::StatusOr<std::unique_ptr<Devices>> Devices::Create(kernel_abi::Kernel& kernel, Vm& vm,
                                                         Bus& memory, Bus& ports, PciHost& pci,
                                                         const Options& options) {
  absl::StatusOr<kernel_abi::EventFd> ejected_event = kernel_abi::EventFd::Create(kernel);
  if (!ejected_event.ok()) return ejected_event.status();
  std::unique_ptr<Devices> devices(
      new Devices(kernel, vm, memory, ports, pci, *std::move(ejected_event)));
  absl::Status inserted =
      ports.Insert("PCI hot-plug", kHotplugPort, kHotplugPorts, devices->hotplug_);
  if (!inserted.ok()) return inserted;
  // Nobody plugs before there is a machine.
  absl::MutexLock lock(&devices->mutex_);

  std::optional<vhost::ControlSocketOptions> socket;
  if (options.control_socket != "none") {
    socket = vhost::ControlSocketOptions{.path = options.control_socket};
  }
  absl::StatusOr<std::unique_ptr<vhost::ControlPlane>> control_plane =
      vhost::ControlPlane::Create({.kernel = &kernel,
                                   .memory = &vm.ram().guest_memory(),
                                   .vm_name = options.name,
                                   .control_socket = std::move(socket),
                                   .plugger = devices.get(),
                                   .on_event = PrintEvents(options.verbose),
                                   .watchdog = options.watchdog});
  if (!control_plane.ok()) return control_plane.status();
  devices->control_plane_ = *std::move(control_plane);

  absl::StatusOr<std::unique_ptr<vhost::kvm::VmWiring>> wiring = vhost::kvm::VmWiring::Create(
      kernel, vm.fd(), vm.WiringOptions(devices->control_plane_->loop()));
  if (!wiring.ok()) return wiring.status();
  devices->wiring_ = *std::move(wiring);

  for (const DeviceOption& option : options.devices) {
    absl::Status status = devices->Add(option);
    if (!status.ok()) {
      return kernel_abi::AddContext(status, absl::StrCat("--device ", option.driver->name));
    }
  }
  return devices;
}

Devices::~Devices() {
  ports_.Remove(kHotplugPort);
  // Transports before the devices that they show, and those before the memory.
  if (wiring_ != nullptr) wiring_->ReleaseWithVm();
  std::vector<std::unique_ptr<PciDevice>> pci_devices;
  {
    absl::MutexLock lock(&mutex_);
    ends_ = true;
    pci_devices.swap(pci_devices_);
  }
  pci_devices.clear();
  mmio_devices_.clear();
  control_plane_.reset();
}

void Devices::Reset() {
  hotplug_.Reset();
  for (const std::unique_ptr<MmioDevice>& device : mmio_devices_) device->Reset();
}

absl::Status Devices::Add(const DeviceOption& option) {
  absl::StatusOr<vhost::VirtioDevice*> device = MakeDevice(option);
  if (!device.ok()) return device.status();
  return option.driver->bus == DeviceBus::kPci ? AttachToPci(**device, option)
                                               : AttachToMmio(**device, option);
}

// ---- Hot-plug ----------------------------------------------------------------------------------

absl::StatusOr<std::string> Devices::Plug(absl::string_view description) {
  absl::StatusOr<DeviceOption> option = ParseDevice(description);
  if (!option.ok()) return option.status();
  if (option->driver->bus != DeviceBus::kPci) {
    return absl::InvalidArgumentError(
        absl::StrCat(option->driver->name, ": only devices on PCI come while the guest runs; use ",
                     option->driver->info->stem, "-pci"));
  }
  for (const char* property : {"fds", "vhostfds", "vhostfd"}) {
    if (!option->Has(property)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        property,
        ": numbers of this process's fds mean nothing to whoever asks; name the interface"
        " or the node"));
  }
  absl::MutexLock lock(&mutex_);
  if (ends_) return absl::FailedPreconditionError("the machine ends");
  if (absl::Status status = Add(*option); !status.ok()) {
    // What was made for it cannot be removed here, on the event loop's thread.
    if (!left_over_.empty()) ejected_event_.Signal();
    return status;
  }
  hotplug_.Announce(pci_devices_.back()->slot());
  return pci_devices_.back()->name();
}

absl::Status Devices::Unplug(absl::string_view device) {
  absl::MutexLock lock(&mutex_);
  if (ends_) return absl::FailedPreconditionError("the machine ends");
  for (const std::unique_ptr<PciDevice>& candidate : pci_devices_) {
    if (candidate->name() != device) continue;
    hotplug_.Ask(candidate->slot());
    return absl::OkStatus();
  }
  absl::StatusOr<vhost::DeviceReport> other = control_plane_->Describe(device);
  if (!other.ok()) return other.status();
  return absl::FailedPreconditionError(
      absl::StrCat(device, ": is not on PCI, and stays while the guest runs"));
}

void Devices::Eject(uint32_t slot) {
  if (slot >= PciHost::kSlots || !pci_.Hide(slot)) return;
  ejected_slots_.fetch_or(uint32_t{1} << slot);
  ejected_event_.Signal();
}

void Devices::RemoveEjected() {
  ejected_event_.Drain();
  const uint32_t slots = ejected_slots_.exchange(0);
  std::vector<std::unique_ptr<PciDevice>> ejected;
  std::vector<std::string> names;
  {
    absl::MutexLock lock(&mutex_);
    names.swap(left_over_);
    const auto gone = std::stable_partition(
        pci_devices_.begin(), pci_devices_.end(),
        [slots](const auto& device) { return (slots >> device->slot() & 1) == 0; });
    for (auto device = gone; device != pci_devices_.end(); ++device) {
      names.push_back((*device)->name());
      ejected.push_back(std::move(*device));
    }
    pci_devices_.erase(gone, pci_devices_.end());
  }
  // The guest finds them no more; calls that were under way when it let go have to end.
  memory_.WaitForCalls();
  ports_.WaitForCalls();
  ejected.clear();
  for (const std::string& name : names) (void)control_plane_->Remove(name);
}

// ---- Making devices ----------------------------------------------------------------------------

absl::StatusOr<vhost::VirtioDevice*> Devices::MakeDevice(const DeviceOption& option) {
  switch (option.driver->type()) {
    case DeviceType::kNet: {
      absl::StatusOr<vhost::NetOptions> net = MakeNetOptions(option, NameOf(option));
      if (!net.ok()) return net.status();
      return control_plane_->AddNet(*std::move(net));
    }
    case DeviceType::kVsock: {
      absl::StatusOr<vhost::VsockOptions> vsock = MakeVsockOptions(option, NameOf(option));
      if (!vsock.ok()) return vsock.status();
      return control_plane_->AddVsock(*std::move(vsock));
    }
    default: {
      absl::StatusOr<vhost::VhostUserOptions> user = MakeVhostUserOptions(option, NameOf(option));
      if (!user.ok()) return user.status();
      return control_plane_->AddVhostUser(*std::move(user));
    }
  }
}

std::string Devices::NameOf(const DeviceOption& option) {
  const std::string stem = option.driver->info->id_stem;
  return option.Text("id", absl::StrCat(stem, made_[stem]++));
}

absl::Status Devices::AttachToPci(vhost::VirtioDevice& device, const DeviceOption& option) {
  left_over_.push_back(device.name());  // until it is attached
  std::optional<uint32_t> wanted_slot;
  if (option.Has("addr")) wanted_slot = static_cast<uint32_t>(option.Number("addr", 0));
  absl::StatusOr<uint32_t> slot = pci_.FreeSlot(wanted_slot);
  if (!slot.ok()) return slot.status();
  absl::StatusOr<DeviceForm> form = option.Form();
  if (!form.ok()) return form.status();
  vhost::VirtioPciOptions options{.form = *form,
                                  .location = absl::StrFormat("00:%02x.0", *slot),
                                  .intx_gsi = IntxGsi(*slot, /*pin=*/1)};
  if (option.Has("vectors")) options.vectors = static_cast<uint16_t>(option.Number("vectors", 0));
  absl::StatusOr<std::unique_ptr<vhost::VirtioPci>> function =
      vhost::VirtioPci::Create(kernel_, device, *wiring_, control_plane_->loop(), options);
  if (!function.ok()) return function.status();
  auto attached = std::make_unique<PciDevice>(*control_plane_, pci_, device.name(), *slot,
                                              *std::move(function));
  if (absl::Status status = attached->Plug(); !status.ok()) return status;
  pci_devices_.push_back(std::move(attached));
  left_over_.pop_back();
  return absl::OkStatus();
}

absl::Status Devices::AttachToMmio(vhost::VirtioDevice& device, const DeviceOption& option) {
  absl::StatusOr<DeviceForm> form = option.Form();
  if (!form.ok()) return form.status();
  const size_t number = mmio_devices_.size();
  if (number >= kVirtioMmioGsis.size()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: no interrupt is left for more than %d virtio-mmio devices; put it on PCI",
        device.name(), kVirtioMmioGsis.size()));
  }
  const AcpiMachine::VirtioMmio place{.address = kVirtioMmioStart + number * kVirtioMmioStride,
                                      .size = static_cast<uint32_t>(vhost::VirtioMmio::kBytes),
                                      .gsi = kVirtioMmioGsis[number]};
  absl::StatusOr<std::unique_ptr<vhost::VirtioMmio>> registers = vhost::VirtioMmio::Create(
      kernel_, device, *wiring_, control_plane_->loop(),
      {.address = place.address, .gsi = place.gsi, .legacy = *form == DeviceForm::kLegacy});
  if (!registers.ok()) return registers.status();
  mmio_devices_.push_back(std::make_unique<MmioDevice>(*control_plane_, memory_, device.name(),
                                                       place.address, *std::move(registers)));
  virtio_mmio_.push_back(place);
  return mmio_devices_.back()->Plug();
}

}  // namespace vmm

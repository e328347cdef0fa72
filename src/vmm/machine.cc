// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/machine.h"

#include <poll.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/acpi.h"
#include "src/vmm/layout.h"

namespace vmm {

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(kernel_abi::Kernel& kernel,
                                                         const Options& options) {
  absl::StatusOr<LinuxBoot> boot =
      LinuxBoot::Open(kernel, options.kernel, options.initrd, options.append);
  if (!boot.ok()) return boot.status();
  absl::StatusOr<PowerSwitch> power = PowerSwitch::Create(kernel);
  if (!power.ok()) return power.status();
  absl::StatusOr<kernel_abi::EventFd> serial_room = kernel_abi::EventFd::Create(kernel);
  if (!serial_room.ok()) return serial_room.status();
  absl::StatusOr<std::unique_ptr<Vm>> vm =
      Vm::Create(kernel, {.memory_bytes = options.memory_bytes,
                          .memory_backend = options.memory_backend,
                          .cpus = options.cpus,
                          .irqchip = options.irqchip});
  if (!vm.ok()) return vm.status();
  std::unique_ptr<Machine> machine(new Machine(options, *std::move(power), *std::move(serial_room),
                                               *std::move(boot), *std::move(vm)));
  if (absl::Status status = machine->AddDevices(kernel); !status.ok()) return status;
  absl::Status status =
      machine->vm_->CreateVcpus(machine->ports_, machine->memory_, machine->power_);
  if (!status.ok()) return status;
  return machine;
}

Machine::Machine(const Options& options, PowerSwitch power, kernel_abi::EventFd serial_room,
                 LinuxBoot boot, std::unique_ptr<Vm> vm)
    : options_(options),
      power_(std::move(power)),
      serial_room_(std::move(serial_room)),
      boot_(std::move(boot)),
      vm_(std::move(vm)),
      serial_({.set_interrupt = [this](bool level) { vm_->SetInterrupt(kSerialGsi, level); },
               .send = [this](std::byte data) { console_.Write(data); },
               .on_room = [this] { serial_room_.Signal(); }}),
      i8042_(power_),
      acpi_pm_(power_),
      pci_(memory_, ports_, power_) {}

Machine::~Machine() { StopVcpus(); }

absl::Status Machine::AddDevices(kernel_abi::Kernel& kernel) {
  for (const absl::Status& status : {
           ports_.Insert("serial port", kSerialPort, kSerialPorts, serial_),
           ports_.Insert("real-time clock", kCmosPort, 2, rtc_),
           ports_.Insert("keyboard controller", kI8042CommandPort, 1, i8042_),
           ports_.Insert("ACPI power management", kPm1EventPort, kPmPorts, acpi_pm_),
           ports_.Insert("PCI host", kPciConfigPort, 8, pci_),
       }) {
    if (!status.ok()) return status;
  }
  absl::StatusOr<std::unique_ptr<Devices>> devices =
      Devices::Create(kernel, *vm_, memory_, ports_, pci_, options_);
  if (!devices.ok()) return devices.status();
  devices_ = *std::move(devices);
  if (const std::string path = devices_->control_socket_path(); !path.empty()) {
    Say(absl::StrCat("control socket ", path));
  }
  return absl::OkStatus();
}

absl::Status Machine::LoadGuest() {
  const auto table = vm_->ram().guest_memory().table();
  const std::vector<std::byte> acpi =
      BuildAcpiTables({.cpus = options_.cpus,
                       .has_8259s = options_.irqchip == Irqchip::kFull,
                       .virtio_mmio = devices_->virtio_mmio()},
                      kAcpiTablesAddress);
  if (acpi.size() > kAcpiTablesEnd - kAcpiTablesAddress) {
    return absl::InternalError("the ACPI tables are larger than their place");
  }
  absl::Status status = table->Write(vhost::GuestAddress{kAcpiTablesAddress}, acpi);
  if (!status.ok()) return status;
  absl::StatusOr<LinuxBoot::Entry> entry =
      boot_.Load(*table, vm_->ram().low_size(), vm_->ram().high_size(), kAcpiTablesAddress);
  if (!entry.ok()) return entry.status();
  return vm_->vcpus().front()->SetBootState(*entry);
}

absl::Status Machine::Run(int stop_fd) {
  if (absl::Status status = Vcpu::InstallKickSignal(); !status.ok()) return status;
  for (;;) {
    if (absl::Status status = LoadGuest(); !status.ok()) return status;
    Say("the guest starts");
    StartVcpus();
    Wait(stop_fd);
    StopVcpus();
    const PowerEvent event = power_.event();
    Say(absl::StrCat("the guest ended: ", Name(event)));
    SayExits();
    if (event != PowerEvent::kReset || !options_.reboot) return power_.status();
    if (absl::Status status = Reset(); !status.ok()) {
      return kernel_abi::AddContext(status, "resetting the machine");
    }
    power_.Clear();
  }
}

void Machine::StartVcpus() {
  for (const std::unique_ptr<Vcpu>& vcpu : vm_->vcpus()) vcpu->Start();
}

void Machine::StopVcpus() {
  for (const std::unique_ptr<Vcpu>& vcpu : vm_->vcpus()) vcpu->RequestStop();
  for (const std::unique_ptr<Vcpu>& vcpu : vm_->vcpus()) vcpu->Join();
}

void Machine::Wait(int stop_fd) {
  while (power_.event() == PowerEvent::kNone) {
    const size_t room = serial_.room();
    pollfd waiting[] = {
        {.fd = power_.fd(), .events = POLLIN, .revents = 0},
        {.fd = stop_fd, .events = POLLIN, .revents = 0},
        {.fd = serial_room_.get(), .events = POLLIN, .revents = 0},
        // Keys stay where they are until the guest has read those before.
        {.fd = room > 0 ? console_.input_fd() : -1, .events = POLLIN, .revents = 0},
        {.fd = devices_->ejected_fd(), .events = POLLIN, .revents = 0},
    };
    if (::poll(waiting, std::size(waiting), -1) < 0) continue;
    if (waiting[1].revents != 0) power_.Request(PowerEvent::kStop);
    if (waiting[2].revents != 0) serial_room_.Drain();
    if (waiting[3].revents != 0) {
      const Console::Input input = console_.Read(room);
      serial_.Receive(input.data);
      if (input.stop) power_.Request(PowerEvent::kStop);
    }
    if (waiting[4].revents != 0) devices_->RemoveEjected();
  }
}

absl::Status Machine::Reset() {
  // Devices first: when they are silent, nothing raises an interrupt in controllers that are new.
  pci_.Reset();
  devices_->Reset();
  serial_.Reset();
  acpi_pm_.Reset();
  return vm_->Reset();
}

void Machine::Say(const std::string& what) const {
  if (options_.verbose) std::fprintf(stderr, "vmm: %s\n", what.c_str());
}

void Machine::SayExits() const {
  for (size_t cpu = 0; cpu < vm_->vcpus().size(); ++cpu) {
    const VcpuExits exits = vm_->vcpus()[cpu]->exits();
    Say(absl::StrCat("vCPU ", cpu, ": exits for ports ", exits.pio, ", memory ", exits.mmio,
                     ", other ", exits.other));
  }
}

}  // namespace vmm

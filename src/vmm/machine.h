// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The machine: a VM, what is on its buses, and its life.
//
//   Create -> Run: load the kernel, start the vCPUs, wait -+-> powered off, stopped, failed
//                    ^                                     |
//                    +--- reset everything <--- reset -----+
//
// Read Machine::Create to see what a machine consists of, and devices.h for how virtio devices are
// made with the library.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "src/vmm/bus.h"
#include "src/vmm/console.h"
#include "src/vmm/devices.h"
#include "src/vmm/legacy_ports.h"
#include "src/vmm/linux_boot.h"
#include "src/vmm/options.h"
#include "src/vmm/pci_host.h"
#include "src/vmm/power.h"
#include "src/vmm/serial.h"
#include "src/vmm/vm.h"

namespace vmm {

// One thread makes it, runs it and destroys it.
class Machine {
 public:
  static absl::StatusOr<std::unique_ptr<Machine>> Create(kernel_abi::Kernel& kernel,
                                                         const Options& options);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Runs the guest until it powers off (OK) or fails (why), or `stop_fd` becomes readable (OK).
  absl::Status Run(int stop_fd);

 private:
  Machine(const Options& options, PowerSwitch power, kernel_abi::EventFd serial_room,
          LinuxBoot boot, std::unique_ptr<Vm> vm);

  absl::Status AddDevices(kernel_abi::Kernel& kernel);
  absl::Status LoadGuest();
  void StartVcpus();
  void StopVcpus();
  // Feeds the console and waits for the run's end.
  void Wait(int stop_fd);
  absl::Status Reset();
  void Say(const std::string& what) const;  // with --verbose
  void SayExits() const;

  const Options& options_;
  PowerSwitch power_;
  kernel_abi::EventFd serial_room_;
  const LinuxBoot boot_;

  Console console_;
  Bus ports_;
  Bus memory_;
  std::unique_ptr<Vm> vm_;
  SerialPort serial_;
  RtcDevice rtc_;
  I8042Device i8042_;
  AcpiPmDevice acpi_pm_;
  PciHost pci_;
  std::unique_ptr<Devices> devices_;
};

}  // namespace vmm

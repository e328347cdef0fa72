// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The short way in, for a VMM that takes the library's devices and its PCI transport: what README
// shows. main.cc beside this file is the other way, for a VMM that has transports of its own.
#include <memory>
#include <string>

#include "vhost/control_plane.h"
#include "vhost/kvm/vm_wiring.h"
#include "vhost/transport/virtio_pci.h"

// README begin
struct Machine {
  vhost::GuestMemory memory;  // told of every region that the VMM maps, and of every one it unmaps
  std::unique_ptr<vhost::ControlPlane> control_plane;
  std::unique_ptr<vhost::kvm::VmWiring> wiring;
  std::unique_ptr<vhost::VirtioPci>
      net0;  // goes on the VMM's PCI bus: vhost/transport/pci_function.h
};

// Gives the VM one network device on "tap0", two queue pairs, served by /dev/vhost-net.
absl::Status AddDevices(Machine& machine, int vm_fd, std::byte* ram, uint64_t ram_bytes) {
  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  absl::Status status =
      machine.memory.Add({.start = vhost::GuestAddress{0}, .size = ram_bytes, .host = ram});
  if (!status.ok()) return status;

  auto control_plane = vhost::ControlPlane::Create(
      {.memory = &machine.memory, .vm_name = "demo", .control_socket = {{}}});
  if (!control_plane.ok()) return control_plane.status();
  machine.control_plane = *std::move(control_plane);

  // Whatever the machine cannot do is an error here, before the guest runs, with the mend:
  //   /dev/vhost-net: open: ENOENT (No such file or directory); load the module: modprobe vhost_net
  vhost::NetOptions net{.name = "net0", .policy = vhost::OffloadPolicy::kRequire};
  net.tap.name = "tap0";
  net.device.queue_pairs = 2;
  auto device = machine.control_plane->AddNet(std::move(net));
  if (!device.ok()) return device.status();

  vhost::EventLoop& loop = machine.control_plane->loop();
  auto wiring = vhost::kvm::VmWiring::Create(kernel, vm_fd, {.loop = &loop});
  if (!wiring.ok()) return wiring.status();
  machine.wiring = *std::move(wiring);

  auto function = vhost::VirtioPci::Create(kernel, **device, *machine.wiring, loop,
                                           {.location = "00:01.0", .intx_gsi = 16});
  if (!function.ok()) return function.status();
  machine.net0 = *std::move(function);
  return machine.control_plane->SetReportSource(
      "net0", [&function = *machine.net0] { return function.Report(); });
}
// README end

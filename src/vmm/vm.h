// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/request.h"
#include "kernel-abi/unique_fd.h"
#include "src/vmm/io_apic.h"
#include "src/vmm/memory.h"
#include "src/vmm/vcpu.h"
#include "vhost/event_loop.h"
#include "vhost/kvm/memory_slots.h"
#include "vhost/kvm/routing_table.h"
#include "vhost/kvm/vm_wiring.h"

namespace vmm {

// Where the interrupt controllers are.
enum class Irqchip : uint8_t {
  kFull,   // local APICs, I/O APIC, two 8259s and the PIT in KVM
  kSplit,  // local APICs in KVM, the I/O APIC here; no 8259s and no PIT
};

// A virtual machine of KVM: RAM, interrupt controllers and vCPUs. What else is on its buses is the
// machine's matter (machine.h).
class Vm {
 public:
  struct Config {
    uint64_t memory_bytes = 0;
    MemoryBackend memory_backend = MemoryBackend::kMemFd;
    uint32_t cpus = 1;
    Irqchip irqchip = Irqchip::kFull;
  };
  // FAILED_PRECONDITION names a capability that this KVM lacks.
  static absl::StatusOr<std::unique_ptr<Vm>> Create(kernel_abi::Kernel& kernel,
                                                    const Config& config);
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // After Create, once the buses are there. Puts the I/O APIC on the bus if it is ours.
  absl::Status CreateVcpus(Bus& ports, Bus& memory, PowerSwitch& power);
  std::vector<std::unique_ptr<Vcpu>>& vcpus() { return vcpus_; }

  Ram& ram() { return *ram_; }
  int fd() const { return vm_.get(); }
  // How the library's wiring reaches the interrupt controllers.
  vhost::kvm::VmWiringOptions WiringOptions(vhost::EventLoop& loop);

  // The level of a pin of the I/O APIC (and, below 16, of the 8259s). A call that KVM refuses is
  // an interrupt that the guest does not get; there is nobody to tell.
  void SetInterrupt(uint32_t gsi, bool level);

  // Interrupt controllers, timer and vCPUs as they were before the first run. No vCPU may run.
  absl::Status Reset();

 private:
  explicit Vm(kernel_abi::Kernel& kernel) : kernel_(kernel) {}

  kernel_abi::Subject system() const { return {kernel_, system_.get(), kernel_abi::kKvmPath}; }
  kernel_abi::Subject subject() const { return {kernel_, vm_.get(), "KVM VM"}; }
  absl::Status Open();
  absl::Status CreateInterruptControllers();
  absl::Status CreateSplitIrqchip();
  absl::Status AddMemory(const Config& config);
  // What the kernel says of a KVM_CAP_*: 0 for "not there".
  int Extension(unsigned capability) const;

  // The interrupt controllers before the first run; an array's index is KVM's chip id.
  struct ControllerState {
    kvm_irqchip chips[3];
    kvm_pit_state2 timer;
  };

  kernel_abi::Kernel& kernel_;
  kernel_abi::UniqueFd system_;
  kernel_abi::UniqueFd vm_;
  uint32_t cpus_ = 0;
  Irqchip irqchip_ = Irqchip::kFull;
  ControllerState initial_state_{};
  // Of a split irqchip: the GSI routes, which the I/O APIC and the library's wiring share.
  std::unique_ptr<vhost::kvm::RoutingTable> routes_;
  std::unique_ptr<IoApic> io_apic_;
  std::unique_ptr<Ram> ram_;
  std::unique_ptr<vhost::kvm::MemorySlots> slots_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace vmm

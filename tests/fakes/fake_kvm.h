// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// /dev/kvm, VMs and vCPUs, as far as wiring goes: memory slots, ioeventfds, irqfds and GSI routes,
// with the answers of virt/kvm/. No vCPU runs; a test plays the guest with GuestWrite() and takes
// the interrupts that reached it with TakeInterrupts().
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernel-abi/kvm.h"
#include "tests/fakes/fake_node.h"

namespace fakes {

class FakeKvm final : public FakeNode {
 public:
  explicit FakeKvm(FakeWorld& world) : world_(world) {}
  int Ioctl(unsigned long request, uintptr_t argument) override;
  void Count(OpenState& state) const override { ++state.kvm_nodes; }

 private:
  FakeWorld& world_;
};

class FakeVm final : public FakeNode {
 public:
  explicit FakeVm(FakeWorld& world) : world_(world) {}
  int Ioctl(unsigned long request, uintptr_t argument) override;
  void Count(OpenState& state) const override;

  enum class Irqchip { kNone, kFull, kSplit };
  struct IoEventFd {
    uint64_t address;
    uint32_t length;
    bool port;
    std::optional<uint64_t> datamatch;
    kernel_abi::UniqueFd fd;
  };
  struct IrqFd {
    uint32_t gsi;
    kernel_abi::UniqueFd fd;
    kernel_abi::UniqueFd resample_fd;
  };
  struct Slot {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest, size, host;
  };
  struct Interrupt {
    uint32_t gsi;              // of an irqfd or KVM_IRQ_LINE; ~0 for KVM_SIGNAL_MSI
    uint64_t msi_address = 0;  // where its route (or the request) says
    uint32_t msi_data = 0;
  };

  Irqchip irqchip() const { return irqchip_; }
  const std::vector<IoEventFd>& ioeventfds() const { return ioeventfds_; }
  const std::vector<IrqFd>& irqfds() const { return irqfds_; }
  const std::vector<kvm_irq_routing_entry>& routes() const { return routes_; }
  const std::vector<Slot>& slots() const { return slots_; }

  // The guest writes. True if an ioeventfd took it (and was signalled): no exit to the VMM.
  bool GuestWrite(uint64_t address, uint32_t length, uint64_t value, bool port = false);
  // Interrupts injected since the last call: every irqfd that was signalled (drained by this), MSIs
  // and raised lines. An irqfd whose GSI has no route loses its interrupt, as in Linux.
  std::vector<Interrupt> TakeInterrupts();
  // How often KVM_SET_GSI_ROUTING succeeded.
  int routing_updates() const { return routing_updates_; }

 private:
  int AssignIoEventFd(const kvm_ioeventfd& asked);
  int DeassignIoEventFd(const kvm_ioeventfd& asked);
  int AssignIrqFd(const kvm_irqfd& asked);
  int DeassignIrqFd(const kvm_irqfd& asked);
  int SetRouting(uintptr_t argument);
  int SetMemoryRegion(uintptr_t argument);
  int EnableCapability(uintptr_t argument);
  int DirtyLog(uintptr_t argument);
  void Inject(uint32_t gsi);

  FakeWorld& world_;
  Irqchip irqchip_ = Irqchip::kNone;
  int vcpus_ = 0;
  std::vector<uint32_t> vcpu_ids_;
  std::vector<IoEventFd> ioeventfds_;
  std::vector<IrqFd> irqfds_;
  std::vector<kvm_irq_routing_entry> routes_;
  std::vector<Slot> slots_;
  std::vector<Interrupt> pending_;
  int routing_updates_ = 0;
};

}  // namespace fakes

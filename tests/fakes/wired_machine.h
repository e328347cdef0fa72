// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A VM on the fake kernel with wiring by KVM, for tests of transports: what the guest writes goes
// through the ioeventfds that were registered, and what reaches the guest came through irqfds,
// routes and lines.
#pragma once

#include <fcntl.h>

#include <map>
#include <memory>
#include <vector>

#include "kernel-abi/kvm.h"
#include "kernel-abi/unique_fd.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/kvm/vm_wiring.h"

namespace fakes {

class WiredMachine {
 public:
  explicit WiredMachine(vhost::kvm::Irqchip irqchip = vhost::kvm::Irqchip::kFull,
                        bool with_loop = true) {
    using kernel_abi::Call;
    system_.Reset(kernel.Open(kernel_abi::kKvmPath, O_RDWR));
    vm_fd_.Reset(*Call({kernel, system_.get(), "/dev/kvm"}, kernel_abi::kKvmCreateVm,
                       kernel_abi::ByValue<unsigned>{0}));
    if (irqchip == vhost::kvm::Irqchip::kFull) {
      (void)Call({kernel, vm_fd_.get(), "KVM"}, kernel_abi::kKvmCreateIrqchip);
    } else if (irqchip == vhost::kvm::Irqchip::kSplit) {
      kvm_enable_cap split{};
      split.cap = KVM_CAP_SPLIT_IRQCHIP;
      split.args[0] = 24;
      (void)Call({kernel, vm_fd_.get(), "KVM"}, kernel_abi::kKvmEnableCap, split);
    }
    vhost::kvm::VmWiringOptions options;
    options.irqchip = irqchip;
    options.loop = with_loop ? &loop : nullptr;
    options.drive_line = [this](uint32_t gsi, bool high) {
      lines[gsi] = high;
      if (high) ++rises[gsi];
      return absl::OkStatus();
    };
    if (irqchip == vhost::kvm::Irqchip::kNone) {
      options.send_msi = [this](uint64_t address, uint32_t data) {
        sent.push_back({~uint32_t{0}, address, data});
        return absl::OkStatus();
      };
    }
    wiring = *vhost::kvm::VmWiring::Create(kernel, vm_fd_.get(), std::move(options));
  }

  FakeVm& vm() { return *kernel.vm(vm_fd_.get()); }
  int vm_fd() const { return vm_fd_.get(); }
  // MSI data of everything that was injected since the last call, in order.
  std::vector<uint32_t> TakeMessages() {
    std::vector<uint32_t> data;
    for (const FakeVm::Interrupt& interrupt : vm().TakeInterrupts()) {
      data.push_back(interrupt.msi_data);
    }
    return data;
  }

  FakeKernel kernel;
  ManualLoop loop;
  std::map<uint32_t, bool> lines;  // level by GSI
  std::map<uint32_t, int> rises;
  std::vector<FakeVm::Interrupt> sent;  // by send_msi
  std::unique_ptr<vhost::kvm::VmWiring> wiring;

 private:
  kernel_abi::UniqueFd system_;
  kernel_abi::UniqueFd vm_fd_;
};

}  // namespace fakes

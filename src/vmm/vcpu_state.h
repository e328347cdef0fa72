// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/request.h"

namespace vmm {

// All of a vCPU that a reset has to put back: read once when the vCPU is new, written at each
// reset. What a reset means is KVM's knowledge then, not a list of magic numbers here.
class VcpuState {
 public:
  static absl::StatusOr<VcpuState> Capture(const kernel_abi::Subject& vcpu);
  absl::Status Restore(const kernel_abi::Subject& vcpu) const;

 private:
  kvm_regs registers_{};
  kvm_sregs special_registers_{};
  kvm_fpu fpu_{};
  kvm_xcrs extended_control_registers_{};
  kvm_lapic_state local_apic_{};
  kvm_vcpu_events events_{};
  kvm_debugregs debug_registers_{};
  kvm_mp_state mp_state_{};
  kernel_abi::MsrTable msrs_;  // those of the list in the .cc that this vCPU has
};

}  // namespace vmm

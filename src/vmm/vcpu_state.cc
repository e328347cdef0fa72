// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/vcpu_state.h"

#include "absl/strings/str_format.h"

namespace vmm {
namespace {

using kernel_abi::Call;

// The model specific registers that a Linux guest changes and that would hurt its successor: system
// call entries, feature switches, and above all the addresses at which KVM goes on writing (clock,
// steal time, async page faults). The time stamp counter is not among them: it goes on.
constexpr uint32_t kMsrs[] = {
    0x0000'003B,  // TSC_ADJUST
    0x0000'0048,  // SPEC_CTRL
    0x0000'0174,  // SYSENTER_CS
    0x0000'0175,  // SYSENTER_ESP
    0x0000'0176,  // SYSENTER_EIP
    0x0000'01A0,  // MISC_ENABLE
    0x0000'01D9,  // DEBUGCTL
    0x0000'0277,  // PAT
    0x0000'02FF,  // MTRR default type
    0x0000'06A0,  // U_CET
    0x0000'06A2,  // S_CET
    0x0000'06E0,  // TSC_DEADLINE
    0x0000'0DA0,  // XSS
    0x4B56'4D00,  // KVM wall clock
    0x4B56'4D01,  // KVM system time
    0x4B56'4D02,  // KVM async page fault
    0x4B56'4D03,  // KVM steal time
    0x4B56'4D04,  // KVM paravirtual EOI
    0x4B56'4D05,  // KVM poll control
    0x4B56'4D06,  // KVM async page fault vector
    0xC000'0081,  // STAR
    0xC000'0082,  // LSTAR
    0xC000'0083,  // CSTAR
    0xC000'0084,  // SYSCALL_MASK
    0xC000'0102,  // KERNEL_GS_BASE
    0xC000'0103,  // TSC_AUX
};

}  // namespace

absl::StatusOr<VcpuState> VcpuState::Capture(const kernel_abi::Subject& vcpu) {
  VcpuState state;
  for (const absl::Status& status : {
           Call(vcpu, kernel_abi::kKvmGetRegs, state.registers_).status(),
           Call(vcpu, kernel_abi::kKvmGetSregs, state.special_registers_).status(),
           Call(vcpu, kernel_abi::kKvmGetFpu, state.fpu_).status(),
           Call(vcpu, kernel_abi::kKvmGetXcrs, state.extended_control_registers_).status(),
           Call(vcpu, kernel_abi::kKvmGetLapic, state.local_apic_).status(),
           Call(vcpu, kernel_abi::kKvmGetVcpuEvents, state.events_).status(),
           Call(vcpu, kernel_abi::kKvmGetDebugregs, state.debug_registers_).status(),
           Call(vcpu, kernel_abi::kKvmGetMpState, state.mp_state_).status(),
       }) {
    if (!status.ok()) return status;
  }
  for (uint32_t index : kMsrs) {
    kernel_abi::MsrTable one({{.index = index}});
    absl::StatusOr<int> got = Call(vcpu, kernel_abi::kKvmGetMsrs, one);
    if (!got.ok()) return got.status();
    if (*got != 1) continue;  // this vCPU has no such register
    // One that KVM lets us read but not write, no guest has written: Linux 7.3 answers so for XSS
    // where the vCPU has no XSAVES.
    absl::StatusOr<int> set = Call(vcpu, kernel_abi::kKvmSetMsrs, one);
    if (!set.ok()) return set.status();
    if (*set == 1) state.msrs_.Append(one.entries()[0]);
  }
  return state;
}

absl::Status VcpuState::Restore(const kernel_abi::Subject& vcpu) const {
  // Requests take their argument by reference although these only read it.
  VcpuState state = *this;
  // The special registers hold the local APIC's base, so they come before its registers; the MSRs
  // hold its deadline, so they come after.
  for (const absl::Status& status : {
           Call(vcpu, kernel_abi::kKvmSetSregs, state.special_registers_).status(),
           Call(vcpu, kernel_abi::kKvmSetRegs, state.registers_).status(),
           Call(vcpu, kernel_abi::kKvmSetFpu, state.fpu_).status(),
           Call(vcpu, kernel_abi::kKvmSetXcrs, state.extended_control_registers_).status(),
           Call(vcpu, kernel_abi::kKvmSetLapic, state.local_apic_).status(),
           Call(vcpu, kernel_abi::kKvmSetVcpuEvents, state.events_).status(),
           Call(vcpu, kernel_abi::kKvmSetDebugregs, state.debug_registers_).status(),
           Call(vcpu, kernel_abi::kKvmSetMpState, state.mp_state_).status(),
       }) {
    if (!status.ok()) return status;
  }
  absl::StatusOr<int> set = Call(vcpu, kernel_abi::kKvmSetMsrs, state.msrs_);
  if (!set.ok()) return set.status();
  const auto entries = state.msrs_.entries();
  if (static_cast<size_t>(*set) != entries.size()) {
    const kvm_msr_entry& refused = entries[static_cast<size_t>(*set)];
    return absl::InternalError(absl::StrFormat("%s: KVM_SET_MSRS refused MSR %#x = %#x", vcpu.name,
                                               refused.index, refused.data));
  }
  return absl::OkStatus();
}

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>

#include "kernel-abi/kvm.h"

namespace vmm {

// What CPUID answers on vCPU `cpu` of `cpus`: all that KVM supports, with the topology of one
// socket of single-threaded cores instead of the host's. APIC ids are CPU numbers.
// `tsc_deadline`: KVM's local APIC has the TSC deadline timer (KVM_CAP_TSC_DEADLINE_TIMER, which
// older kernels do not show in the supported leaves).
kernel_abi::CpuidTable VcpuCpuid(const kernel_abi::CpuidTable& supported, uint32_t cpu,
                                 uint32_t cpus, bool tsc_deadline);

}  // namespace vmm

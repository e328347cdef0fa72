// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What KVM is asked: the wiring that the library does (ioeventfd, irqfd, routes, dirty log), and
// what a small VMM needs to make a machine of its own. Requests of the system fd (/dev/kvm), of a
// VM fd and of a vCPU fd stand apart below; the x86 ones at the end.
//
// A trap: some of <linux/kvm.h> hides flexible arrays in unions, to which C++ gives another size
// than C, so that the macros for KVM_SET_GSI_ROUTING, KVM_SET_CPUID2, KVM_GET_SUPPORTED_CPUID and
// KVM_GET/SET_MSRS are wrong numbers in C++ (the kernel answers ENOTTY). Here they are spelled out,
// and checked against what C makes of them.
#pragma once

#include <linux/ioctl.h>
#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernel-abi/entry_table.h"
#include "kernel-abi/request.h"

// Describe() for arguments stands in the namespace of the kernel's structs, where Call() finds it.
std::string Describe(const kvm_ioeventfd& ioeventfd);
std::string Describe(const kvm_irqfd& irqfd);
std::string Describe(const kvm_irq_routing_entry& entry);
std::string Describe(const kvm_userspace_memory_region& region);
std::string Describe(const kvm_dirty_log& log);
std::string Describe(const kvm_clear_dirty_log& log);
std::string Describe(const kvm_msi& msi);
std::string Describe(const kvm_irq_level& level);
std::string Describe(const kvm_enable_cap& capability);
std::string Describe(const kvm_mp_state& state);
#if defined(__x86_64__)
std::string Describe(const kvm_regs& registers);
std::string Describe(const kvm_sregs& registers);
std::string Describe(const kvm_fpu& fpu);
std::string Describe(const kvm_irqchip& chip);
std::string Describe(const kvm_pit_config& pit);
std::string Describe(const kvm_pit_state2& pit);
std::string Describe(const kvm_lapic_state& lapic);
std::string Describe(const kvm_clock_data& clock);
std::string Describe(const kvm_interrupt& interrupt);
std::string Describe(const kvm_vcpu_events& events);
std::string Describe(const kvm_xcrs& registers);
std::string Describe(const kvm_debugregs& registers);
#endif

namespace kernel_abi {

inline constexpr char kKvmPath[] = "/dev/kvm";
// What KVM_GET_API_VERSION has answered since 2007.
inline constexpr int kKvmApiVersion = KVM_API_VERSION;

// The whole GSI routing table of a VM: setting it replaces the one before.
using IrqRoutingTable = EntryTable<kvm_irq_routing_entry>;
std::string Describe(const IrqRoutingTable& table);  // up to 4 entries, then how many more

// A capability number, KVM_CAP_*.
std::string DescribeCapability(const ByValue<unsigned>& capability);
std::string DescribeAddress(const ByValue<uint64_t>& address);

// ---- The system: /dev/kvm ----------------------------------------------------------------------

inline constexpr Request<Nothing> kKvmGetApiVersion{KVM_GET_API_VERSION, "KVM_GET_API_VERSION"};
// Returns the VM's fd. The argument is the machine type, 0 on x86. EBUSY or ENODEV: the processor's
// virtualisation is taken or off.
inline constexpr Request<ByValue<unsigned>> kKvmCreateVm{KVM_CREATE_VM, "KVM_CREATE_VM"};
// Bytes of the shared kvm_run area of a vCPU fd.
inline constexpr Request<Nothing> kKvmGetVcpuMmapSize{KVM_GET_VCPU_MMAP_SIZE,
                                                      "KVM_GET_VCPU_MMAP_SIZE"};
// 0: not there. Of a VM fd (KVM_CAP_CHECK_EXTENSION_VM) the answer is for that VM.
inline constexpr Request<ByValue<unsigned>> kKvmCheckExtension{
    KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", {}, DescribeCapability};

// ---- A VM: memory ------------------------------------------------------------------------------

inline constexpr Request<kvm_userspace_memory_region> kKvmSetUserMemoryRegion{
    KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION"};
// The bitmap, a bit a page, is cleared by reading. ENOENT: the slot does not log.
inline constexpr Request<kvm_dirty_log> kKvmGetDirtyLog{KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG"};
inline constexpr Request<kvm_clear_dirty_log> kKvmClearDirtyLog{KVM_CLEAR_DIRTY_LOG,
                                                                "KVM_CLEAR_DIRTY_LOG"};

// ---- A VM: notification and interrupts ---------------------------------------------------------

// EEXIST: something at that address matches already. ENOENT: no such registration to deassign; fd,
// address, length and datamatch must be those of the assignment. EINVAL: length 0 with datamatch or
// a port.
inline constexpr Request<kvm_ioeventfd> kKvmIoEventFd{KVM_IOEVENTFD, "KVM_IOEVENTFD"};
// EINVAL (EAGAIN on Arm): no interrupt controller in the kernel; for RESAMPLE also a split one.
// EBUSY: the eventfd has an irqfd already, for whichever GSI. A GSI without a route is no error,
// but its interrupts are lost. A count that is pending is injected at once. Deassigning what is not
// assigned succeeds.
inline constexpr Request<kvm_irqfd> kKvmIrqFd{KVM_IRQFD, "KVM_IRQFD"};
inline constexpr Request<IrqRoutingTable> kKvmSetGsiRouting{_IOC(_IOC_WRITE, KVMIO, 0x6a, 8),
                                                            "KVM_SET_GSI_ROUTING"};
// Returns 1 if delivered, 0 if the guest had it masked.
inline constexpr Request<kvm_msi> kKvmSignalMsi{KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI"};
inline constexpr Request<kvm_irq_level> kKvmIrqLine{KVM_IRQ_LINE, "KVM_IRQ_LINE"};
inline constexpr Request<kvm_enable_cap> kKvmEnableCap{KVM_ENABLE_CAP, "KVM_ENABLE_CAP"};

// ---- A vCPU ------------------------------------------------------------------------------------

// Of a VM fd; returns the vCPU's fd. EEXIST: the id is taken.
inline constexpr Request<ByValue<unsigned>> kKvmCreateVcpu{KVM_CREATE_VCPU, "KVM_CREATE_VCPU"};
// EINTR: a signal, or immediate_exit. EAGAIN: an AP that waits for its INIT. Others are in kvm_run.
inline constexpr Request<Nothing> kKvmRun{KVM_RUN, "KVM_RUN"};
inline constexpr Request<kvm_mp_state> kKvmGetMpState{KVM_GET_MP_STATE, "KVM_GET_MP_STATE"};
inline constexpr Request<kvm_mp_state> kKvmSetMpState{KVM_SET_MP_STATE, "KVM_SET_MP_STATE"};

#if defined(__x86_64__)
// ---- x86: the machine --------------------------------------------------------------------------

using MsrTable = EntryTable<kvm_msr_entry>;
using CpuidTable = EntryTable<kvm_cpuid_entry2>;
std::string Describe(const MsrTable& table);
std::string Describe(const CpuidTable& table);

// Of /dev/kvm. E2BIG: room for too few leaves. Lowers the count to what it wrote.
inline constexpr Request<CpuidTable> kKvmGetSupportedCpuid{
    _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8), "KVM_GET_SUPPORTED_CPUID"};
// Three pages of guest addresses below 4 GiB that KVM takes for itself on Intel.
inline constexpr Request<ByValue<uint64_t>> kKvmSetTssAddr{
    KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", {}, DescribeAddress};
inline constexpr Request<uint64_t> kKvmSetIdentityMapAddr{KVM_SET_IDENTITY_MAP_ADDR,
                                                          "KVM_SET_IDENTITY_MAP_ADDR"};
// EEXIST: made already, or split (KVM_CAP_SPLIT_IRQCHIP). Before the first vCPU.
inline constexpr Request<Nothing> kKvmCreateIrqchip{KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP"};
inline constexpr Request<kvm_irqchip> kKvmGetIrqchip{KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP"};
// Encoded as a read in the kernel's header although the kernel reads: kept as it is.
inline constexpr Request<kvm_irqchip> kKvmSetIrqchip{KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP"};
inline constexpr Request<kvm_pit_config> kKvmCreatePit2{KVM_CREATE_PIT2, "KVM_CREATE_PIT2"};
inline constexpr Request<kvm_pit_state2> kKvmGetPit2{KVM_GET_PIT2, "KVM_GET_PIT2"};
inline constexpr Request<kvm_pit_state2> kKvmSetPit2{KVM_SET_PIT2, "KVM_SET_PIT2"};
inline constexpr Request<kvm_clock_data> kKvmGetClock{KVM_GET_CLOCK, "KVM_GET_CLOCK"};
inline constexpr Request<kvm_clock_data> kKvmSetClock{KVM_SET_CLOCK, "KVM_SET_CLOCK"};
inline constexpr Request<ByValue<unsigned>> kKvmSetBootCpuId{KVM_SET_BOOT_CPU_ID,
                                                             "KVM_SET_BOOT_CPU_ID"};

// ---- x86: a vCPU -------------------------------------------------------------------------------

inline constexpr Request<kvm_regs> kKvmGetRegs{KVM_GET_REGS, "KVM_GET_REGS"};
inline constexpr Request<kvm_regs> kKvmSetRegs{KVM_SET_REGS, "KVM_SET_REGS"};
inline constexpr Request<kvm_sregs> kKvmGetSregs{KVM_GET_SREGS, "KVM_GET_SREGS"};
inline constexpr Request<kvm_sregs> kKvmSetSregs{KVM_SET_SREGS, "KVM_SET_SREGS"};
inline constexpr Request<kvm_fpu> kKvmGetFpu{KVM_GET_FPU, "KVM_GET_FPU"};
inline constexpr Request<kvm_fpu> kKvmSetFpu{KVM_SET_FPU, "KVM_SET_FPU"};
// Return how many MSRs were read or written: the one behind them is the first that was refused.
inline constexpr Request<MsrTable> kKvmGetMsrs{_IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8),
                                               "KVM_GET_MSRS"};
inline constexpr Request<MsrTable> kKvmSetMsrs{_IOC(_IOC_WRITE, KVMIO, 0x89, 8), "KVM_SET_MSRS"};
inline constexpr Request<CpuidTable> kKvmSetCpuid2{_IOC(_IOC_WRITE, KVMIO, 0x90, 8),
                                                   "KVM_SET_CPUID2"};
inline constexpr Request<kvm_lapic_state> kKvmGetLapic{KVM_GET_LAPIC, "KVM_GET_LAPIC"};
inline constexpr Request<kvm_lapic_state> kKvmSetLapic{KVM_SET_LAPIC, "KVM_SET_LAPIC"};
inline constexpr Request<kvm_interrupt> kKvmInterrupt{KVM_INTERRUPT, "KVM_INTERRUPT"};
inline constexpr Request<Nothing> kKvmNmi{KVM_NMI, "KVM_NMI"};
inline constexpr Request<kvm_vcpu_events> kKvmGetVcpuEvents{KVM_GET_VCPU_EVENTS,
                                                            "KVM_GET_VCPU_EVENTS"};
inline constexpr Request<kvm_vcpu_events> kKvmSetVcpuEvents{KVM_SET_VCPU_EVENTS,
                                                            "KVM_SET_VCPU_EVENTS"};
inline constexpr Request<kvm_debugregs> kKvmGetDebugregs{KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"};
inline constexpr Request<kvm_debugregs> kKvmSetDebugregs{KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"};
inline constexpr Request<kvm_xcrs> kKvmGetXcrs{KVM_GET_XCRS, "KVM_GET_XCRS"};
inline constexpr Request<kvm_xcrs> kKvmSetXcrs{KVM_SET_XCRS, "KVM_SET_XCRS"};
inline constexpr Request<Nothing> kKvmKvmclockCtrl{KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL"};

// The numbers that C++ would get wrong, and some that it gets right, as C has them.
static_assert(kKvmSetGsiRouting.number == 0x4008ae6a && kKvmGetSupportedCpuid.number == 0xc008ae05);
static_assert(kKvmGetMsrs.number == 0xc008ae88 && kKvmSetMsrs.number == 0x4008ae89);
static_assert(kKvmSetCpuid2.number == 0x4008ae90 && kKvmIoEventFd.number == 0x4040ae79);
static_assert(kKvmIrqFd.number == 0x4020ae76 && kKvmSetUserMemoryRegion.number == 0x4020ae46);
static_assert(kKvmGetDirtyLog.number == 0x4010ae42 && kKvmClearDirtyLog.number == 0xc018aec0);
static_assert(kKvmGetIrqchip.number == 0xc208ae62 && kKvmSetIrqchip.number == 0x8208ae63);
static_assert(sizeof(kvm_msr_entry) == 16 && sizeof(kvm_cpuid_entry2) == 40);
#endif  // __x86_64__

static_assert(sizeof(kvm_ioeventfd) == 64 && offsetof(kvm_ioeventfd, flags) == 24);
static_assert(sizeof(kvm_irqfd) == 32 && offsetof(kvm_irqfd, resamplefd) == 12);
static_assert(sizeof(kvm_irq_routing_entry) == 48 && offsetof(kvm_irq_routing_entry, u) == 16);
static_assert(sizeof(kvm_userspace_memory_region) == 32 && sizeof(kvm_msi) == 32);

}  // namespace kernel_abi

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/vcpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/layout.h"

namespace vmm {
namespace {

using kernel_abi::Call;

int KickSignal() { return SIGRTMIN; }

const char* InternalErrorName(uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return "instruction that KVM cannot emulate";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "exceptions at the same time";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "fault while delivering an event";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "unexpected exit of the processor";
    default:
      return "of unknown kind";
  }
}

// Flat segments for long mode, as linux_boot.cc's GDT has them.
kvm_segment Segment(uint16_t selector, bool code) {
  return {.base = 0,
          .limit = 0xFFFF'FFFF,
          .selector = selector,
          .type = static_cast<uint8_t>(code ? 0xB : 0x3),  // accessed; execute/read or read/write
          .present = 1,
          .dpl = 0,
          .db = static_cast<uint8_t>(code ? 0 : 1),
          .s = 1,
          .l = static_cast<uint8_t>(code ? 1 : 0),
          .g = 1};
}

}  // namespace

Vcpu::Vcpu(kernel_abi::Kernel& kernel, uint32_t id, Surroundings surroundings)
    : kernel_(kernel), name_(absl::StrCat("vCPU ", id)), id_(id), surroundings_(surroundings) {}

absl::StatusOr<std::unique_ptr<Vcpu>> Vcpu::Create(const kernel_abi::Subject& vm, uint32_t id,
                                                   size_t run_bytes,
                                                   const kernel_abi::CpuidTable& cpuid,
                                                   Surroundings surroundings) {
  std::unique_ptr<Vcpu> vcpu(new Vcpu(vm.kernel, id, surroundings));
  absl::StatusOr<int> fd = Call(vm, kernel_abi::kKvmCreateVcpu, kernel_abi::ByValue<unsigned>{id});
  if (!fd.ok()) return fd.status();
  vcpu->fd_.Reset(*fd);

  void* run = nullptr;
  const int mapped =
      vm.kernel.Map(run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd_.get(), 0, &run);
  if (mapped < 0) {
    return kernel_abi::MakeSystemError(
        {.error = -mapped, .subject = vcpu->name_, .call = "mmap", .arguments = "kvm_run"});
  }
  vcpu->run_bytes_ = run_bytes;
  vcpu->run_ = static_cast<kvm_run*>(run);

  kernel_abi::CpuidTable leaves = cpuid;
  absl::StatusOr<int> set = Call(vcpu->subject(), kernel_abi::kKvmSetCpuid2, leaves);
  if (!set.ok()) return set.status();
  absl::StatusOr<VcpuState> state = VcpuState::Capture(vcpu->subject());
  if (!state.ok()) return state.status();
  vcpu->initial_state_ = *std::move(state);
  return vcpu;
}

Vcpu::~Vcpu() {
  RequestStop();
  Join();
  if (run_ != nullptr) kernel_.Unmap(run_, run_bytes_);
}

absl::Status Vcpu::SetBootState(const LinuxBoot::Entry& entry) {
  constexpr uint64_t kCr0ProtectedPaging = 1U << 31 | 1U << 0;
  constexpr uint64_t kCr4PhysicalAddressExtension = 1 << 5;
  constexpr uint64_t kEferLongMode = 1 << 8 | 1 << 10;  // enabled, active
  kvm_sregs special{};
  absl::StatusOr<int> result = Call(subject(), kernel_abi::kKvmGetSregs, special);
  if (!result.ok()) return result.status();
  special.cs = Segment(kBootCodeSelector, /*code=*/true);
  for (kvm_segment* segment : {&special.ds, &special.es, &special.fs, &special.gs, &special.ss}) {
    *segment = Segment(kBootDataSelector, /*code=*/false);
  }
  special.gdt = {.base = kGdtAddress, .limit = kBootGdtBytes - 1};
  special.cr3 = kPageTablesAddress;
  special.cr0 |= kCr0ProtectedPaging;
  special.cr4 |= kCr4PhysicalAddressExtension;
  special.efer |= kEferLongMode;
  result = Call(subject(), kernel_abi::kKvmSetSregs, special);
  if (!result.ok()) return result.status();

  kvm_regs registers{.rsi = entry.zero_page,
                     .rsp = kBootStackTop,
                     .rip = entry.rip,
                     .rflags = 1 << 1};  // the bit that is always set
  return Call(subject(), kernel_abi::kKvmSetRegs, registers).status();
}

absl::Status Vcpu::Reset() { return initial_state_.Restore(subject()); }

void Vcpu::Start() {
  stop_ = false;
  std::atomic_ref<uint8_t>(run_->immediate_exit) = 0;
  thread_ = std::thread([this] { RunLoop(); });
  pthread_setname_np(thread_.native_handle(), absl::StrCat("vcpu", id_).c_str());
}

void Vcpu::RequestStop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  // A signal that comes before KVM_RUN would be lost without this.
  std::atomic_ref<uint8_t>(run_->immediate_exit) = 1;
  pthread_kill(thread_.native_handle(), KickSignal());
}

void Vcpu::Join() {
  if (thread_.joinable()) thread_.join();
}

VcpuExits Vcpu::exits() const {
  return {.pio = pio_exits_, .mmio = mmio_exits_, .other = other_exits_};
}

absl::Status Vcpu::InstallKickSignal() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  if (sigaction(KickSignal(), &action, nullptr) < 0) {
    return kernel_abi::MakeSystemError({.error = errno, .subject = "vCPUs", .call = "sigaction"});
  }
  return absl::OkStatus();
}

void Vcpu::RunLoop() {
  while (!stop_) {
    if (absl::Status status = RunOnce(); !status.ok()) {
      surroundings_.power.Fail(std::move(status));
      return;
    }
  }
  CompleteAccess();
}

absl::Status Vcpu::RunOnce() {
  const int result = kernel_.Ioctl(fd_.get(), kernel_abi::kKvmRun.number, 0);
  if (result == -EINTR || result == -EAGAIN) {
    other_exits_.fetch_add(1, std::memory_order_relaxed);
    return absl::OkStatus();
  }
  if (result < 0) {
    return kernel_abi::AddContext(
        kernel_abi::MakeSystemError(
            {.error = -result, .subject = name_, .call = kernel_abi::kKvmRun.name}),
        "the guest cannot go on");
  }
  return HandleExit();
}

absl::Status Vcpu::HandleExit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      pio_exits_.fetch_add(1, std::memory_order_relaxed);
      HandlePortAccess();
      return absl::OkStatus();
    case KVM_EXIT_MMIO:
      mmio_exits_.fetch_add(1, std::memory_order_relaxed);
      HandleMemoryAccess();
      return absl::OkStatus();
    case KVM_EXIT_IOAPIC_EOI:
      other_exits_.fetch_add(1, std::memory_order_relaxed);
      if (surroundings_.io_apic != nullptr) {
        surroundings_.io_apic->EndOfInterrupt(run_->eoi.vector);
      }
      return absl::OkStatus();
    case KVM_EXIT_INTR:
    case KVM_EXIT_HLT:
      other_exits_.fetch_add(1, std::memory_order_relaxed);
      return absl::OkStatus();
    case KVM_EXIT_SHUTDOWN:
      return Dead("triple fault (KVM_EXIT_SHUTDOWN)");
    case KVM_EXIT_FAIL_ENTRY:
      return Dead(absl::StrFormat(
          "the processor refused to enter the guest (KVM_EXIT_FAIL_ENTRY, reason %#x, host CPU %d)",
          run_->fail_entry.hardware_entry_failure_reason, run_->fail_entry.cpu));
    case KVM_EXIT_INTERNAL_ERROR: {
      std::string data;
      for (uint32_t i = 0; i < run_->internal.ndata && i < std::size(run_->internal.data); ++i) {
        absl::StrAppendFormat(&data, " %#x", run_->internal.data[i]);
      }
      return Dead(absl::StrFormat("KVM_EXIT_INTERNAL_ERROR, suberror %d: %s;%s",
                                  run_->internal.suberror,
                                  InternalErrorName(run_->internal.suberror),
                                  data.empty() ? " no data" : absl::StrCat(" data", data)));
    }
    default:
      return Dead(absl::StrFormat("KVM came back for reason %d, which this VMM does not know",
                                  run_->exit_reason));
  }
}

void Vcpu::HandlePortAccess() {
  // A string instruction ("rep outsb") is one exit with several accesses to the same port.
  auto* data = reinterpret_cast<std::byte*>(run_) + run_->io.data_offset;
  for (uint32_t i = 0; i < run_->io.count; ++i, data += run_->io.size) {
    const std::span<std::byte> access(data, run_->io.size);
    if (run_->io.direction == KVM_EXIT_IO_OUT) {
      surroundings_.ports.Write(run_->io.port, access);
    } else {
      surroundings_.ports.Read(run_->io.port, access);
    }
  }
}

void Vcpu::HandleMemoryAccess() {
  const std::span<std::byte> access(reinterpret_cast<std::byte*>(run_->mmio.data), run_->mmio.len);
  if (run_->mmio.is_write != 0) {
    surroundings_.memory.Write(run_->mmio.phys_addr, access);
  } else {
    surroundings_.memory.Read(run_->mmio.phys_addr, access);
  }
}

absl::Status Vcpu::Dead(std::string what) {
  kvm_regs registers{};
  kvm_sregs special{};
  if (Call(subject(), kernel_abi::kKvmGetRegs, registers).ok() &&
      Call(subject(), kernel_abi::kKvmGetSregs, special).ok()) {
    absl::StrAppendFormat(&what,
                          " at rip=%#x rsp=%#x cs=%#x cr0=%#x cr2=%#x cr3=%#x cr4=%#x efer=%#x",
                          registers.rip, registers.rsp, special.cs.selector, special.cr0,
                          special.cr2, special.cr3, special.cr4, special.efer);
  }
  return absl::AbortedError(absl::StrCat(name_, ": ", what));
}

void Vcpu::CompleteAccess() {
  std::atomic_ref<uint8_t>(run_->immediate_exit) = 1;
  // EINTR when there is nothing left; an access over a page boundary comes in pieces.
  constexpr int kMostPieces = 16;
  for (int i = 0; i < kMostPieces; ++i) {
    if (kernel_.Ioctl(fd_.get(), kernel_abi::kKvmRun.number, 0) < 0) return;
  }
}

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A VM on the machine's own /dev/kvm whose guest is a few instructions of real mode: enough to make
// the writes that an ioeventfd takes, and to see in its local APIC what an irqfd delivered.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/unique_fd.h"

namespace fakes {

class RealModeGuest {
 public:
  static constexpr uint64_t kRamBytes = 0x10000;
  static constexpr uint16_t kCode = 0x1000;
  static constexpr uint8_t kExitPort = 0x99;

  // NOT_FOUND or PERMISSION_DENIED: this machine has no KVM for us.
  static absl::StatusOr<std::unique_ptr<RealModeGuest>> Create(bool split_irqchip = false) {
    std::unique_ptr<RealModeGuest> guest(new RealModeGuest());
    if (absl::Status made = guest->Make(split_irqchip); !made.ok()) return made;
    return guest;
  }
  ~RealModeGuest() {
    if (run_ != nullptr) (void)kernel_.Unmap(run_, run_bytes_);
    if (ram_ != nullptr) (void)kernel_.Unmap(ram_, kRamBytes);
  }

  int vm_fd() const { return vm_.get(); }

  // Instructions. Each is appended to what Run() executes next.
  RealModeGuest& OutWord(uint16_t port, uint16_t value) {
    Emit({0xba, Low(port), High(port), 0xb8, Low(value), High(value), 0xef});
    return *this;
  }
  // Writes 2 or 4 bytes at an address below 1 MiB.
  RealModeGuest& Store(uint32_t address, uint32_t value, int bytes) {
    const auto segment = static_cast<uint16_t>(address >> 4);
    const auto offset = static_cast<uint16_t>(address & 0xf);
    Emit({0xb8, Low(segment), High(segment), 0x8e, 0xd8});
    if (bytes == 4) Emit({0x66});
    Emit({0xc7, 0x06, Low(offset), High(offset), Low(value), High(value)});
    if (bytes == 4) Emit({Low(value >> 16), High(value >> 16)});
    return *this;
  }

  // Runs what was appended, and forgets it. The exits that reached user space, as addresses and
  // ports, in order.
  absl::StatusOr<std::vector<uint64_t>> Run() {
    Emit({0xe6, kExitPort});
    std::copy(code_.begin(), code_.end(), static_cast<uint8_t*>(ram_) + kCode);
    code_.clear();
    kvm_regs registers{};
    registers.rip = kCode;
    registers.rflags = 2;
    if (auto set = Vcpu(kernel_abi::kKvmSetRegs, registers); !set.ok()) return set.status();
    auto* run = static_cast<kvm_run*>(run_);
    std::vector<uint64_t> exits;
    for (int i = 0; i < 100; ++i) {
      const auto ran = Vcpu(kernel_abi::kKvmRun, kernel_abi::Nothing{});
      if (!ran.ok()) return ran.status();
      if (run->exit_reason == KVM_EXIT_IO) {
        if (run->io.port == kExitPort) return exits;
        exits.push_back(run->io.port);
      } else if (run->exit_reason == KVM_EXIT_MMIO) {
        exits.push_back(run->mmio.phys_addr);
      } else {
        return absl::InternalError("exit reason " + std::to_string(run->exit_reason));
      }
    }
    return absl::InternalError("the guest does not come to an end");
  }

  // Sends pin `pin` of the I/O APIC in the kernel to `vector`, edge or level.
  absl::Status RoutePin(uint32_t pin, uint8_t vector, bool level) {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    auto got = Vm(kernel_abi::kKvmGetIrqchip, chip);
    if (!got.ok()) return got.status();
    chip.chip.ioapic.redirtbl[pin].bits = vector | (level ? uint64_t{1} << 15 : 0);
    return Vm(kernel_abi::kKvmSetIrqchip, chip).status();
  }

  // Whether the vector waits in the local APIC. Injection by an irqfd may go by a work queue, so
  // it is waited for.
  bool Requested(uint8_t vector) {
    // Within 10 s: the kernel injects it from a worker of its own, on a machine that may be busy.
    for (int i = 0; i < 10'000; ++i) {
      if (RequestedNow(vector)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool RequestedNow(uint8_t vector) {
    kvm_lapic_state apic{};
    (void)Vcpu(kernel_abi::kKvmGetLapic, apic);
    return (Register(apic, kRequests + vector / 32u * 0x10) >> (vector % 32) & 1) != 0;
  }
  // Forgets all that waits.
  void ClearRequests() {
    kvm_lapic_state apic{};
    (void)Vcpu(kernel_abi::kKvmGetLapic, apic);
    for (unsigned i = 0; i < 8; ++i) SetRegister(apic, kRequests + i * 0x10, 0);
    (void)Vcpu(kernel_abi::kKvmSetLapic, apic);
  }

 private:
  static constexpr unsigned kRequests = 0x200;  // IRR
  static constexpr unsigned kSpurious = 0xf0;   // with the APIC's software enable bit, 8

  RealModeGuest() : kernel_(kernel_abi::LinuxKernel()) {}

  absl::Status Make(bool split_irqchip) {
    using kernel_abi::Call;
    const int system = kernel_.Open(kernel_abi::kKvmPath, O_RDWR);
    if (system < 0) {
      return kernel_abi::MakeSystemError(
          {.error = -system, .subject = kernel_abi::kKvmPath, .call = "open"});
    }
    system_.Reset(system);
    const auto vm = Call({kernel_, system, "/dev/kvm"}, kernel_abi::kKvmCreateVm,
                         kernel_abi::ByValue<unsigned>{0});
    if (!vm.ok()) return vm.status();
    vm_.Reset(*vm);
    if (split_irqchip) {
      kvm_enable_cap split{};
      split.cap = KVM_CAP_SPLIT_IRQCHIP;
      split.args[0] = 24;
      if (auto made = Vm(kernel_abi::kKvmEnableCap, split); !made.ok()) return made.status();
    } else if (auto made = Vm(kernel_abi::kKvmCreateIrqchip, kernel_abi::Nothing{}); !made.ok()) {
      return made.status();
    }
    if (const int mapped = kernel_.Map(kRamBytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &ram_);
        mapped < 0) {
      return absl::ErrnoToStatus(-mapped, "mmap");
    }
    kvm_userspace_memory_region region{};
    region.memory_size = kRamBytes;
    region.userspace_addr = reinterpret_cast<uint64_t>(ram_);
    if (auto set = Vm(kernel_abi::kKvmSetUserMemoryRegion, region); !set.ok()) return set.status();
    const auto vcpu = Vm(kernel_abi::kKvmCreateVcpu, kernel_abi::ByValue<unsigned>{0});
    if (!vcpu.ok()) return vcpu.status();
    vcpu_.Reset(*vcpu);
    const auto bytes = Call({kernel_, system, "/dev/kvm"}, kernel_abi::kKvmGetVcpuMmapSize);
    if (!bytes.ok()) return bytes.status();
    run_bytes_ = static_cast<size_t>(*bytes);
    if (const int mapped =
            kernel_.Map(run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.get(), 0, &run_);
        mapped < 0) {
      run_ = nullptr;
      return absl::ErrnoToStatus(-mapped, "mmap");
    }
    return EnterRealMode();
  }

  absl::Status EnterRealMode() {
    kvm_sregs registers{};
    if (auto got = Vcpu(kernel_abi::kKvmGetSregs, registers); !got.ok()) return got.status();
    registers.cs.base = 0;
    registers.cs.selector = 0;
    if (auto set = Vcpu(kernel_abi::kKvmSetSregs, registers); !set.ok()) return set.status();
    kvm_lapic_state apic{};
    if (auto got = Vcpu(kernel_abi::kKvmGetLapic, apic); !got.ok()) return got.status();
    SetRegister(apic, kSpurious, 0x1ff);
    return Vcpu(kernel_abi::kKvmSetLapic, apic).status();
  }

  template <typename Argument, typename Given>
  absl::StatusOr<int> Vm(const kernel_abi::Request<Argument>& request, Given&& argument) {
    return kernel_abi::Call({kernel_, vm_.get(), "KVM"}, request, argument);
  }
  template <typename Argument, typename Given>
  absl::StatusOr<int> Vcpu(const kernel_abi::Request<Argument>& request, Given&& argument) {
    return kernel_abi::Call({kernel_, vcpu_.get(), "vCPU"}, request, argument);
  }

  static uint32_t Register(const kvm_lapic_state& apic, unsigned at) {
    uint32_t value = 0;
    std::memcpy(&value, apic.regs + at, sizeof(value));
    return value;
  }
  static void SetRegister(kvm_lapic_state& apic, unsigned at, uint32_t value) {
    std::memcpy(apic.regs + at, &value, sizeof(value));
  }
  static uint8_t Low(uint32_t value) { return static_cast<uint8_t>(value); }
  static uint8_t High(uint32_t value) { return static_cast<uint8_t>(value >> 8); }
  void Emit(std::initializer_list<uint8_t> bytes) {
    code_.insert(code_.end(), bytes.begin(), bytes.end());
  }

  kernel_abi::Kernel& kernel_;
  kernel_abi::UniqueFd system_;
  kernel_abi::UniqueFd vm_;
  kernel_abi::UniqueFd vcpu_;
  void* ram_ = nullptr;
  void* run_ = nullptr;
  size_t run_bytes_ = 0;
  std::vector<uint8_t> code_;
};

}  // namespace fakes

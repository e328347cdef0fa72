// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/vm.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"
#include "src/vmm/cpuid.h"
#include "src/vmm/layout.h"

namespace vmm {
namespace {

using kernel_abi::ByValue;
using kernel_abi::Call;

// More than any processor has.
constexpr size_t kMaxCpuidLeaves = 256;

absl::Status OpenError(int error) {
  const char* advice = "";
  if (error == ENOENT) {
    advice =
        "load the module: modprobe kvm_intel or kvm_amd (virtualisation must be on in the "
        "firmware)";
  } else if (error == EACCES || error == EPERM) {
    advice = "add the user to group kvm";
  }
  return kernel_abi::MakeSystemError(
      {.error = error, .subject = kernel_abi::kKvmPath, .call = "open"}, advice);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(kernel_abi::Kernel& kernel, const Config& config) {
  std::unique_ptr<Vm> vm(new Vm(kernel));
  vm->cpus_ = config.cpus;
  vm->irqchip_ = config.irqchip;
  if (absl::Status status = vm->Open(); !status.ok()) return status;
  if (absl::Status status = vm->CreateInterruptControllers(); !status.ok()) return status;
  if (absl::Status status = vm->AddMemory(config); !status.ok()) return status;
  return vm;
}

Vm::~Vm() {
  vcpus_.clear();
  if (slots_ != nullptr) ram_->guest_memory().RemoveListener(slots_.get());
}

int Vm::Extension(unsigned capability) const {
  return Call(system(), kernel_abi::kKvmCheckExtension, ByValue<unsigned>{capability}).value_or(0);
}

absl::Status Vm::Open() {
  const int fd = kernel_.Open(kernel_abi::kKvmPath, O_RDWR);
  if (fd < 0) return OpenError(-fd);
  system_.Reset(fd);
  absl::StatusOr<int> version = Call(system(), kernel_abi::kKvmGetApiVersion);
  if (!version.ok()) return version.status();
  if (*version != kernel_abi::kKvmApiVersion) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: API version %d, not %d", kernel_abi::kKvmPath, *version, kernel_abi::kKvmApiVersion));
  }
  const std::pair<unsigned, const char*> needed[] = {
      {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
      {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
      {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
      {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
      {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
      {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
      {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
      {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
  };
  for (const auto& [capability, name] : needed) {
    if (Extension(capability) == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(kernel_abi::kKvmPath, ": this kernel does not have ", name));
    }
  }
  const int most_cpus = Extension(KVM_CAP_MAX_VCPUS);
  if (most_cpus > 0 && cpus_ > static_cast<uint32_t>(most_cpus)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--cpus %d: KVM takes at most %d here", cpus_, most_cpus));
  }
  absl::StatusOr<int> vm = Call(system(), kernel_abi::kKvmCreateVm, ByValue<unsigned>{0});
  if (!vm.ok()) return vm.status();
  vm_.Reset(*vm);
  return absl::OkStatus();
}

absl::Status Vm::CreateInterruptControllers() {
  uint64_t identity_map = kIdentityMapAddress;
  for (const absl::Status& status : {
           Call(subject(), kernel_abi::kKvmSetIdentityMapAddr, identity_map).status(),
           Call(subject(), kernel_abi::kKvmSetTssAddr, ByValue<uint64_t>{kTssAddress}).status(),
       }) {
    if (!status.ok()) return status;
  }
  if (irqchip_ == Irqchip::kSplit) return CreateSplitIrqchip();
  kvm_pit_config timer{.flags = KVM_PIT_SPEAKER_DUMMY};
  for (const absl::Status& status : {
           Call(subject(), kernel_abi::kKvmCreateIrqchip).status(),
           Call(subject(), kernel_abi::kKvmCreatePit2, timer).status(),
           Call(subject(), kernel_abi::kKvmGetPit2, initial_state_.timer).status(),
       }) {
    if (!status.ok()) return status;
  }
  for (uint32_t chip = 0; chip < std::size(initial_state_.chips); ++chip) {
    initial_state_.chips[chip].chip_id = chip;
    absl::StatusOr<int> got =
        Call(subject(), kernel_abi::kKvmGetIrqchip, initial_state_.chips[chip]);
    if (!got.ok()) return got.status();
  }
  return absl::OkStatus();
}

absl::Status Vm::CreateSplitIrqchip() {
  kvm_enable_cap split{.cap = KVM_CAP_SPLIT_IRQCHIP};
  split.args[0] = kIoApicPins;
  absl::StatusOr<int> enabled = Call(subject(), kernel_abi::kKvmEnableCap, split);
  if (!enabled.ok()) return enabled.status();
  absl::StatusOr<std::unique_ptr<vhost::kvm::RoutingTable>> routes =
      vhost::kvm::RoutingTable::Create(kernel_, vm_.get(), {});
  if (!routes.ok()) return routes.status();
  routes_ = *std::move(routes);
  io_apic_ = std::make_unique<IoApic>(IoApic::Connections{
      .send =
          [this](const IoApic::Message& message) {
            kvm_msi msi{.address_lo = static_cast<uint32_t>(message.address), .data = message.data};
            (void)kernel_.Ioctl(vm_.get(), kernel_abi::kKvmSignalMsi.number,
                                reinterpret_cast<uintptr_t>(&msi));
          },
      // KVM ends a level-triggered interrupt with an exit if a route has its vector.
      .announce =
          [this](uint32_t gsi, const IoApic::Message& message) {
            (void)routes_->SetMessage(gsi, message.address, message.data);
          },
  });
  return absl::OkStatus();
}

vhost::kvm::VmWiringOptions Vm::WiringOptions(vhost::EventLoop& loop) {
  if (irqchip_ == Irqchip::kFull) return {.loop = &loop};
  return {.irqchip = vhost::kvm::Irqchip::kSplit,
          .loop = &loop,
          .msi_router = routes_.get(),
          .drive_line = [this](uint32_t gsi, bool high) {
            io_apic_->SetLine(gsi, high);
            return absl::OkStatus();
          }};
}

absl::Status Vm::AddMemory(const Config& config) {
  absl::StatusOr<std::unique_ptr<Ram>> ram =
      Ram::Create(kernel_, config.memory_bytes, config.memory_backend);
  if (!ram.ok()) return ram.status();
  ram_ = *std::move(ram);
  absl::StatusOr<std::unique_ptr<vhost::kvm::MemorySlots>> slots =
      vhost::kvm::MemorySlots::Create(kernel_, vm_.get());
  if (!slots.ok()) return slots.status();
  slots_ = *std::move(slots);
  absl::Status status = ram_->guest_memory().AddListener(slots_.get());
  if (!status.ok()) slots_.reset();
  return status;
}

absl::Status Vm::CreateVcpus(Bus& ports, Bus& memory, PowerSwitch& power) {
  if (io_apic_ != nullptr) {
    absl::Status status = memory.Insert("I/O APIC", kIoApicAddress, IoApic::kBytes, *io_apic_);
    if (!status.ok()) return status;
  }
  const Vcpu::Surroundings surroundings{
      .ports = ports, .memory = memory, .power = power, .io_apic = io_apic_.get()};
  kernel_abi::CpuidTable supported(kMaxCpuidLeaves);
  absl::StatusOr<int> result = Call(system(), kernel_abi::kKvmGetSupportedCpuid, supported);
  if (!result.ok()) return result.status();
  supported.TrimToCount();
  const bool tsc_deadline = Extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  absl::StatusOr<int> run_bytes = Call(system(), kernel_abi::kKvmGetVcpuMmapSize);
  if (!run_bytes.ok()) return run_bytes.status();
  for (uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    absl::StatusOr<std::unique_ptr<Vcpu>> vcpu =
        Vcpu::Create(subject(), cpu, static_cast<size_t>(*run_bytes),
                     VcpuCpuid(supported, cpu, cpus_, tsc_deadline), surroundings);
    if (!vcpu.ok()) return vcpu.status();
    vcpus_.push_back(*std::move(vcpu));
  }
  return absl::OkStatus();
}

void Vm::SetInterrupt(uint32_t gsi, bool level) {
  if (io_apic_ != nullptr) return io_apic_->SetLine(gsi, level);
  kvm_irq_level argument{};
  argument.irq = gsi;
  argument.level = level ? 1 : 0;
  (void)kernel_.Ioctl(vm_.get(), kernel_abi::kKvmIrqLine.number,
                      reinterpret_cast<uintptr_t>(&argument));
}

absl::Status Vm::Reset() {
  if (io_apic_ != nullptr) {
    io_apic_->Reset();
  } else {
    ControllerState state = initial_state_;
    for (kvm_irqchip& chip : state.chips) {
      absl::StatusOr<int> set = Call(subject(), kernel_abi::kKvmSetIrqchip, chip);
      if (!set.ok()) return set.status();
    }
    absl::StatusOr<int> set = Call(subject(), kernel_abi::kKvmSetPit2, state.timer);
    if (!set.ok()) return set.status();
  }
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
    if (absl::Status status = vcpu->Reset(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace vmm

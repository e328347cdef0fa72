// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/request.h"
#include "kernel-abi/unique_fd.h"
#include "src/vmm/bus.h"
#include "src/vmm/io_apic.h"
#include "src/vmm/linux_boot.h"
#include "src/vmm/power.h"
#include "src/vmm/vcpu_state.h"

namespace vmm {

// What a vCPU came back to this process for, since it was made.
struct VcpuExits {
  uint64_t pio = 0;
  uint64_t mmio = 0;
  uint64_t other = 0;  // signals, mostly
};

// A virtual CPU and, while it runs, its thread.
//
//   Create -> [SetBootState] -> Start -> RequestStop -> Join -> Reset -> [SetBootState] -> Start
//   ...
//
// One thread (the machine's) calls all functions.
class Vcpu {
 public:
  // Where its accesses go and whom it tells that the guest is over. Outlives the vCPU.
  struct Surroundings {
    Bus& ports;
    Bus& memory;
    PowerSwitch& power;
    IoApic* io_apic = nullptr;  // none: it is KVM's
  };
  // `run_bytes` is what KVM_GET_VCPU_MMAP_SIZE says.
  static absl::StatusOr<std::unique_ptr<Vcpu>> Create(const kernel_abi::Subject& vm, uint32_t id,
                                                      size_t run_bytes,
                                                      const kernel_abi::CpuidTable& cpuid,
                                                      Surroundings surroundings);
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  // Puts it at a Linux kernel's 64-bit entry point. For the first vCPU; the others wait for it to
  // start them.
  absl::Status SetBootState(const LinuxBoot::Entry& entry);
  // As it was when it was made.
  absl::Status Reset();

  void Start();
  // Brings it back from the guest, from wherever it is. Does not wait.
  void RequestStop();
  // Waits until it has stopped; it can be started again, or be reset.
  void Join();

  VcpuExits exits() const;

  // Once in a process, before the first Start: the signal that brings vCPUs back must interrupt a
  // system call and do nothing else.
  static absl::Status InstallKickSignal();

 private:
  Vcpu(kernel_abi::Kernel& kernel, uint32_t id, Surroundings surroundings);

  kernel_abi::Subject subject() const { return {kernel_, fd_.get(), name_}; }
  void RunLoop();
  // One KVM_RUN and what it asked for. An error ends the guest.
  absl::Status RunOnce();
  absl::Status HandleExit();
  void HandlePortAccess();
  void HandleMemoryAccess();
  // The failure `what`, with where the vCPU was.
  absl::Status Dead(std::string what);
  // An access that KVM waits to complete is completed by entering once more, without running.
  void CompleteAccess();

  kernel_abi::Kernel& kernel_;
  const std::string name_;  // "vCPU 0"
  const uint32_t id_;
  const Surroundings surroundings_;
  kernel_abi::UniqueFd fd_;
  size_t run_bytes_ = 0;
  kvm_run* run_ = nullptr;  // shared with KVM
  VcpuState initial_state_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
  // Written by the vCPU's thread only.
  std::atomic<uint64_t> pio_exits_{0};
  std::atomic<uint64_t> mmio_exits_{0};
  std::atomic<uint64_t> other_exits_{0};
};

}  // namespace vmm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kvm/registrations.h"

#include "kernel-abi/kvm.h"

namespace vhost::kvm {
namespace {

class IoEventFd final : public Registration {
 public:
  IoEventFd(Vm& vm, const kvm_ioeventfd& request) : vm_(vm), request_(request) {}
  ~IoEventFd() override {
    if (vm_.closing) return;
    request_.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    // Fails only where the VM or the eventfd was closed before its time, and is gone then too.
    (void)kernel_abi::Call({vm_.kernel, vm_.fd, "KVM"}, kernel_abi::kKvmIoEventFd, request_);
  }
  const char* how() const override { return "ioeventfd"; }

 private:
  Vm& vm_;
  kvm_ioeventfd request_;
};

class IrqFd final : public Registration {
 public:
  IrqFd(Vm& vm, const kvm_irqfd& request) : vm_(vm), request_(request) {}
  ~IrqFd() override {
    if (vm_.closing) return;
    request_.flags |= KVM_IRQFD_FLAG_DEASSIGN;
    (void)kernel_abi::Call({vm_.kernel, vm_.fd, "KVM"}, kernel_abi::kKvmIrqFd, request_);
  }
  const char* how() const override { return "irqfd"; }

 private:
  Vm& vm_;
  kvm_irqfd request_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Registration>> MakeIoEventFd(Vm& vm, const NotifyAddress& address,
                                                            int event_fd) {
  kvm_ioeventfd request{};
  request.addr = address.address;
  request.len = address.length;
  request.fd = event_fd;
  if (address.space == NotifyAddress::Space::kPio) request.flags |= KVM_IOEVENTFD_FLAG_PIO;
  if (address.datamatch.has_value()) {
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    request.datamatch = *address.datamatch;
  }
  const absl::StatusOr<int> made =
      kernel_abi::Call({vm.kernel, vm.fd, "KVM"}, kernel_abi::kKvmIoEventFd, request);
  if (!made.ok()) return made.status();
  return std::make_unique<IoEventFd>(vm, request);
}

absl::StatusOr<std::unique_ptr<Registration>> MakeIrqFd(Vm& vm, uint32_t gsi, int event_fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event_fd);
  request.gsi = gsi;
  const absl::StatusOr<int> made =
      kernel_abi::Call({vm.kernel, vm.fd, "KVM"}, kernel_abi::kKvmIrqFd, request);
  if (!made.ok()) return made.status();
  return std::make_unique<IrqFd>(vm, request);
}

}  // namespace vhost::kvm

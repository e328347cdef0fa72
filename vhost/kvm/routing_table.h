// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/kvm.h"
#include "vhost/kvm/msi_router.h"

namespace vhost::kvm {

// A VM's GSI routing table: the routes of its interrupt controllers, which stay, and one route for
// each MSI vector. Setting a route sets the whole table, 8 to 22 microseconds natively.
//
// A route that was freed stays in KVM until the table is next set: nothing sends it any more, and
// tearing a device down is spared a table for each of its vectors.
class RoutingTable final : public MsiRouter {
 public:
  // GSIs below are pins of the I/O APIC (in the kernel or, with a split irqchip, in the VMM).
  static constexpr uint32_t kFirstMsiGsi = 24;
  // What KVM_CREATE_IRQCHIP sets up on x86: GSIs 0 to 15 at the PICs and the I/O APIC, 16 to 23 at
  // the I/O APIC. The table for a full irqchip begins with these; that for a split one is empty.
  static std::vector<kvm_irq_routing_entry> FullIrqchipRoutes();

  // `vm_fd` is lent for the table's life. `fixed` are the routes that stay; MSI vectors get GSIs
  // that these do not use, from kFirstMsiGsi on. Sets nothing yet.
  static absl::StatusOr<std::unique_ptr<RoutingTable>> Create(
      kernel_abi::Kernel& kernel, int vm_fd, std::vector<kvm_irq_routing_entry> fixed);

  absl::StatusOr<uint32_t> Allocate() override;
  void Free(uint32_t gsi) override;
  absl::Status SetMessage(uint32_t gsi, uint64_t address, uint32_t data) override;

 private:
  struct Message {
    uint64_t address;
    uint32_t data;
  };
  RoutingTable(kernel_abi::Kernel& kernel, int vm_fd, std::vector<kvm_irq_routing_entry> fixed,
               uint32_t max_routes);

  kernel_abi::Kernel& kernel_;
  const int vm_fd_;
  const std::vector<kvm_irq_routing_entry> fixed_;
  const uint32_t max_routes_;
  absl::Mutex mutex_;
  std::set<uint32_t> used_ ABSL_GUARDED_BY(mutex_);  // GSIs: of fixed routes, and allocated
  uint32_t allocated_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint32_t, Message> messages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost::kvm

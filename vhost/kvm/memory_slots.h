// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "vhost/guest_memory.h"

namespace vhost::kvm {

// Keeps a VM's memory slots as GuestMemory has its regions: one slot a region. A region that stays
// is not touched, so a running guest does not notice a change elsewhere.
//
// Thread safety: as MemoryListener (calls come one at a time).
class MemorySlots : public MemoryListener {
 public:
  // `vm_fd` is lent for the object's life. `first_slot`: slots below it are left to the VMM.
  // Asks KVM once how many slots it has.
  static absl::StatusOr<std::unique_ptr<MemorySlots>> Create(kernel_abi::Kernel& kernel, int vm_fd,
                                                             uint32_t first_slot = 0);
  // Slots still set stay with the VM: remove the memory first where that matters.
  ~MemorySlots() override = default;

  absl::Status CheckMemory(const MemoryTable& table) const override;
  // On an error the slots are as before.
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& table) override;

 private:
  MemorySlots(kernel_abi::Kernel& kernel, int vm_fd, uint32_t first_slot, uint32_t slot_count)
      : kernel_(kernel), vm_fd_(vm_fd), first_slot_(first_slot), slot_count_(slot_count) {}

  absl::Status Set(uint32_t slot, const MemoryRegion& region, uint64_t size);
  uint32_t FreeSlot() const;

  kernel_abi::Kernel& kernel_;
  const int vm_fd_;
  const uint32_t first_slot_;
  const uint32_t slot_count_;
  std::map<uint32_t, MemoryRegion> slots_;  // what KVM has
};

}  // namespace vhost::kvm

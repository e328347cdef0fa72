// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kvm/memory_slots.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/request.h"
#include "kernel-abi/system_error.h"

namespace vhost::kvm {
namespace {

constexpr char kSubject[] = "KVM VM";

// The same stretch of guest memory on the same host memory; which memfd it is does not matter here.
bool SameMapping(const MemoryRegion& a, const MemoryRegion& b) {
  return a.start == b.start && a.size == b.size && a.host == b.host;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemorySlots>> MemorySlots::Create(kernel_abi::Kernel& kernel,
                                                                 int vm_fd, uint32_t first_slot) {
  const kernel_abi::Subject vm{kernel, vm_fd, kSubject};
  absl::StatusOr<int> count = kernel_abi::Call(vm, kernel_abi::kKvmCheckExtension,
                                               kernel_abi::ByValue<unsigned>{KVM_CAP_NR_MEMSLOTS});
  if (!count.ok()) return count.status();
  // Kernels that do not tell have had 32 since the beginning.
  const uint32_t slots = *count > 0 ? static_cast<uint32_t>(*count) : 32;
  return absl::WrapUnique(new MemorySlots(kernel, vm_fd, first_slot, slots));
}

absl::Status MemorySlots::CheckMemory(const MemoryTable& table) const {
  const uint32_t available = slot_count_ > first_slot_ ? slot_count_ - first_slot_ : 0;
  if (table.regions().size() <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("guest memory has ", table.regions().size(), " regions, KVM has ", available,
                   " memory slots left for them (KVM_CAP_NR_MEMSLOTS); use fewer, larger regions"));
}

absl::Status MemorySlots::Set(uint32_t slot, const MemoryRegion& region, uint64_t size) {
  kvm_userspace_memory_region argument{};
  argument.slot = slot;
  argument.guest_phys_addr = Value(region.start);
  argument.memory_size = size;  // 0 removes the slot.
  argument.userspace_addr = reinterpret_cast<uint64_t>(region.host);
  const kernel_abi::Subject vm{kernel_, vm_fd_, kSubject};
  return kernel_abi::Call(vm, kernel_abi::kKvmSetUserMemoryRegion, argument).status();
}

uint32_t MemorySlots::FreeSlot() const {
  uint32_t slot = first_slot_;
  while (slots_.contains(slot)) ++slot;
  return slot;
}

absl::Status MemorySlots::SetMemory(const std::shared_ptr<const MemoryTable>& table) {
  const auto regions = table->regions();
  const std::map<uint32_t, MemoryRegion> before = slots_;
  absl::Status status;

  // What goes, goes first: a region may come back at the same place on other memory, and KVM
  // refuses slots that overlap.
  for (const auto& [slot, region] : before) {
    if (std::ranges::any_of(regions, [&region = region](const MemoryRegion& r) {
          return SameMapping(r, region);
        })) {
      continue;
    }
    status = Set(slot, region, 0);
    if (!status.ok()) break;
    slots_.erase(slot);
  }
  for (const MemoryRegion& region : regions) {
    if (!status.ok()) break;
    if (std::ranges::any_of(before,
                            [&](const auto& entry) { return SameMapping(entry.second, region); })) {
      continue;
    }
    const uint32_t slot = FreeSlot();
    status = Set(slot, region, region.size);
    if (status.ok()) slots_.emplace(slot, region);
  }
  if (status.ok()) return status;

  // Undo in the opposite order: what was added goes, what was removed comes back.
  const std::map<uint32_t, MemoryRegion> reached = slots_;
  auto undo = [&](absl::Status undone, uint32_t slot) {
    if (!undone.ok()) {
      status = kernel_abi::AddAdvice(
          status,
          absl::StrCat("and memory slot ", slot, " could not be put back: ", undone.message()));
    }
  };
  for (const auto& [slot, region] : reached) {
    const auto old = before.find(slot);
    if (old != before.end() && SameMapping(old->second, region)) continue;
    undo(Set(slot, region, 0), slot);
    slots_.erase(slot);
  }
  for (const auto& [slot, region] : before) {
    if (slots_.contains(slot)) continue;
    undo(Set(slot, region, region.size), slot);
    slots_.emplace(slot, region);
  }
  return status;
}

}  // namespace vhost::kvm

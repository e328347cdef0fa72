// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kvm/routing_table.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace vhost::kvm {
namespace {

constexpr uint32_t kPicPins = 8;
constexpr uint32_t kIsaPins = 16;

kvm_irq_routing_entry ChipRoute(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {.irqchip = chip, .pin = pin};
  return entry;
}

kvm_irq_routing_entry MsiRoute(uint32_t gsi, uint64_t address, uint32_t data) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(address);
  entry.u.msi.address_hi = static_cast<uint32_t>(address >> 32);
  entry.u.msi.data = data;
  return entry;
}

}  // namespace

std::vector<kvm_irq_routing_entry> RoutingTable::FullIrqchipRoutes() {
  std::vector<kvm_irq_routing_entry> routes;
  for (uint32_t gsi = 0; gsi < kFirstMsiGsi; ++gsi) {
    if (gsi < kIsaPins) {
      const uint32_t pic = gsi < kPicPins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
      routes.push_back(ChipRoute(gsi, pic, gsi % kPicPins));
    }
    routes.push_back(ChipRoute(gsi, KVM_IRQCHIP_IOAPIC, gsi));
  }
  return routes;
}

absl::StatusOr<std::unique_ptr<RoutingTable>> RoutingTable::Create(
    kernel_abi::Kernel& kernel, int vm_fd, std::vector<kvm_irq_routing_entry> fixed) {
  const absl::StatusOr<int> max_routes =
      kernel_abi::Call({kernel, vm_fd, "KVM"}, kernel_abi::kKvmCheckExtension,
                       kernel_abi::ByValue<unsigned>{KVM_CAP_IRQ_ROUTING});
  if (!max_routes.ok()) return max_routes.status();
  return std::unique_ptr<RoutingTable>(
      new RoutingTable(kernel, vm_fd, std::move(fixed), static_cast<uint32_t>(*max_routes)));
}

RoutingTable::RoutingTable(kernel_abi::Kernel& kernel, int vm_fd,
                           std::vector<kvm_irq_routing_entry> fixed, uint32_t max_routes)
    : kernel_(kernel), vm_fd_(vm_fd), fixed_(std::move(fixed)), max_routes_(max_routes) {
  for (const kvm_irq_routing_entry& entry : fixed_) used_.insert(entry.gsi);
}

absl::StatusOr<uint32_t> RoutingTable::Allocate() {
  absl::MutexLock lock(&mutex_);
  // KVM takes as many routes as it has GSIs, and some pins have two routes.
  const uint64_t routes = fixed_.size() + allocated_ + 1;
  for (uint32_t gsi = kFirstMsiGsi; gsi < max_routes_ && routes <= max_routes_; ++gsi) {
    if (!used_.insert(gsi).second) continue;
    ++allocated_;
    return gsi;
  }
  return absl::ResourceExhaustedError(absl::StrFormat(
      "no GSI is left for an MSI vector: KVM has %u; give devices fewer vectors", max_routes_));
}

void RoutingTable::Free(uint32_t gsi) {
  absl::MutexLock lock(&mutex_);
  used_.erase(gsi);
  messages_.erase(gsi);
  --allocated_;
}

absl::Status RoutingTable::SetMessage(uint32_t gsi, uint64_t address, uint32_t data) {
  absl::MutexLock lock(&mutex_);
  kernel_abi::IrqRoutingTable table{std::span<const kvm_irq_routing_entry>(fixed_)};
  for (const auto& [other, message] : messages_) {
    if (other != gsi) table.Append(MsiRoute(other, message.address, message.data));
  }
  table.Append(MsiRoute(gsi, address, data));
  const absl::StatusOr<int> set =
      kernel_abi::Call({kernel_, vm_fd_, "KVM"}, kernel_abi::kKvmSetGsiRouting, table);
  if (!set.ok()) return set.status();
  messages_[gsi] = {.address = address, .data = data};
  return absl::OkStatus();
}

}  // namespace vhost::kvm

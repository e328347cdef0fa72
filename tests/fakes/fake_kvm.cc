// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/fake_kvm.h"

#include <algorithm>
#include <cerrno>

#include "tests/fakes/user_memory.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT: the requests, by their names

constexpr uint32_t kMaxRoutes = 4096;
constexpr uint32_t kMaxSlots = 32764;
constexpr uint32_t kPageBytes = 4096;

// Descriptors of vCPUs exist, and that is all.
class FakeVcpu final : public FakeNode {
 public:
  int Ioctl(unsigned long /*request*/, uintptr_t /*argument*/) override { return -EINVAL; }
  void Count(OpenState& state) const override { ++state.kvm_nodes; }
};

int Capability(unsigned capability) {
  switch (capability) {
    case KVM_CAP_IRQCHIP:
    case KVM_CAP_USER_MEMORY:
    case KVM_CAP_IRQFD:
    case KVM_CAP_IRQFD_RESAMPLE:
    case KVM_CAP_IOEVENTFD:
    case KVM_CAP_IOEVENTFD_ANY_LENGTH:
    case KVM_CAP_SIGNAL_MSI:
    case KVM_CAP_SPLIT_IRQCHIP:
    case KVM_CAP_CHECK_EXTENSION_VM:
      return 1;
    case KVM_CAP_IRQ_ROUTING:
      return kMaxRoutes;
    case KVM_CAP_NR_MEMSLOTS:
      return kMaxSlots;
    case KVM_CAP_MAX_VCPUS:
      return 1024;
    case KVM_CAP_NR_VCPUS:
      return 4;
    default:
      return 0;
  }
}

bool Collide(const FakeVm::IoEventFd& a, const FakeVm::IoEventFd& b) {
  if (a.port != b.port || a.address != b.address) return false;
  if (a.length == 0 || b.length == 0) return true;
  return a.length == b.length && (!a.datamatch || !b.datamatch || a.datamatch == b.datamatch);
}

bool IsKnownLength(uint32_t length) {
  return length == 0 || length == 1 || length == 2 || length == 4 || length == 8;
}

}  // namespace

int FakeKvm::Ioctl(unsigned long request, uintptr_t argument) {
  if (request == kKvmGetApiVersion.number) return argument == 0 ? kKvmApiVersion : -EINVAL;
  if (request == kKvmCreateVm.number) {
    return argument == 0 ? world_.Install(std::make_unique<FakeVm>(world_)) : -EINVAL;
  }
  if (request == kKvmCheckExtension.number) return Capability(static_cast<unsigned>(argument));
  if (request == kKvmGetVcpuMmapSize.number) return argument == 0 ? 3 * kPageBytes : -EINVAL;
  return -EINVAL;
}

int FakeVm::Ioctl(unsigned long request, uintptr_t argument) {
  if (request == kKvmCheckExtension.number) return Capability(static_cast<unsigned>(argument));
  if (request == kKvmSetUserMemoryRegion.number) return SetMemoryRegion(argument);
  if (request == kKvmIoEventFd.number) {
    kvm_ioeventfd asked = {};
    if (Get(&asked, argument) != 0) return -EFAULT;
    return (asked.flags & KVM_IOEVENTFD_FLAG_DEASSIGN) != 0 ? DeassignIoEventFd(asked)
                                                            : AssignIoEventFd(asked);
  }
  if (request == kKvmIrqFd.number) {
    kvm_irqfd asked = {};
    if (Get(&asked, argument) != 0) return -EFAULT;
    if ((asked.flags & ~unsigned{KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE}) != 0) {
      return -EINVAL;
    }
    return (asked.flags & KVM_IRQFD_FLAG_DEASSIGN) != 0 ? DeassignIrqFd(asked) : AssignIrqFd(asked);
  }
  if (request == kKvmSetGsiRouting.number) return SetRouting(argument);
  if (request == kKvmCreateIrqchip.number) {
    if (irqchip_ != Irqchip::kNone) return -EEXIST;
    if (vcpus_ > 0) return -EINVAL;
    irqchip_ = Irqchip::kFull;
    return 0;
  }
  if (request == kKvmEnableCap.number) return EnableCapability(argument);
  if (request == kKvmSignalMsi.number) {
    kvm_msi msi = {};
    if (Get(&msi, argument) != 0) return -EFAULT;
    if (irqchip_ == Irqchip::kNone || msi.flags != 0) return -EINVAL;
    pending_.push_back({~uint32_t{0}, uint64_t{msi.address_hi} << 32 | msi.address_lo, msi.data});
    return 1;
  }
  if (request == kKvmIrqLine.number) {
    kvm_irq_level level = {};
    if (Get(&level, argument) != 0) return -EFAULT;
    if (irqchip_ == Irqchip::kNone) return -ENXIO;
    if (level.level != 0) Inject(level.irq);
    return 0;
  }
  if (request == kKvmCreateVcpu.number) {
    const auto id = static_cast<uint32_t>(argument);
    if (std::find(vcpu_ids_.begin(), vcpu_ids_.end(), id) != vcpu_ids_.end()) return -EEXIST;
    const int fd = world_.Install(std::make_unique<FakeVcpu>());
    if (fd >= 0) vcpu_ids_.push_back(id);
    vcpus_ = static_cast<int>(vcpu_ids_.size());
    return fd;
  }
  if (request == kKvmGetDirtyLog.number) return DirtyLog(argument);
  if (request == kKvmSetTssAddr.number || request == kKvmSetIdentityMapAddr.number ||
      request == kKvmCreatePit2.number) {
    return 0;
  }
  return -ENOTTY;
}

int FakeVm::EnableCapability(uintptr_t argument) {
  kvm_enable_cap asked = {};
  if (Get(&asked, argument) != 0) return -EFAULT;
  if (asked.cap != KVM_CAP_SPLIT_IRQCHIP || asked.flags != 0) return -EINVAL;
  if (irqchip_ != Irqchip::kNone) return -EEXIST;
  if (vcpus_ > 0) return -EINVAL;
  irqchip_ = Irqchip::kSplit;
  return 0;
}

// ---- ioeventfd: virt/kvm/eventfd.c -------------------------------------------------------------

int FakeVm::AssignIoEventFd(const kvm_ioeventfd& asked) {
  const bool datamatch = (asked.flags & KVM_IOEVENTFD_FLAG_DATAMATCH) != 0;
  if (!IsKnownLength(asked.len)) return -EINVAL;
  if (asked.addr + asked.len < asked.addr) return -EINVAL;
  if ((asked.flags & ~unsigned{KVM_IOEVENTFD_VALID_FLAG_MASK}) != 0) return -EINVAL;
  if (asked.len == 0 && datamatch) return -EINVAL;
  if (const int result = CheckEventFd(asked.fd); result != 0) return result;
  IoEventFd made{.address = asked.addr,
                 .length = asked.len,
                 .port = (asked.flags & KVM_IOEVENTFD_FLAG_PIO) != 0,
                 .datamatch = datamatch ? std::optional<uint64_t>(asked.datamatch) : std::nullopt,
                 .fd = Hold(asked.fd)};
  for (const IoEventFd& other : ioeventfds_) {
    if (Collide(made, other)) return -EEXIST;
  }
  ioeventfds_.push_back(std::move(made));
  return 0;
}

int FakeVm::DeassignIoEventFd(const kvm_ioeventfd& asked) {
  if (const int result = CheckEventFd(asked.fd); result != 0) return result;
  const bool datamatch = (asked.flags & KVM_IOEVENTFD_FLAG_DATAMATCH) != 0;
  const bool port = (asked.flags & KVM_IOEVENTFD_FLAG_PIO) != 0;
  const auto found =
      std::find_if(ioeventfds_.begin(), ioeventfds_.end(), [&](const IoEventFd& other) {
        return other.port == port && other.address == asked.addr && other.length == asked.len &&
               other.datamatch.has_value() == datamatch &&
               (!datamatch || *other.datamatch == asked.datamatch) &&
               IsSameEventFd(other.fd.get(), asked.fd);
      });
  if (found == ioeventfds_.end()) return -ENOENT;
  ioeventfds_.erase(found);
  return 0;
}

// ---- irqfd and routes --------------------------------------------------------------------------

int FakeVm::AssignIrqFd(const kvm_irqfd& asked) {
  const bool resample = (asked.flags & KVM_IRQFD_FLAG_RESAMPLE) != 0;
  if (irqchip_ == Irqchip::kNone) return -EINVAL;  // Of x86; Arm answers EAGAIN.
  if (resample && irqchip_ != Irqchip::kFull) return -EINVAL;
  if (const int result = CheckEventFd(asked.fd); result != 0) return result;
  if (const int result = resample ? CheckEventFd(asked.resamplefd) : 0; result != 0) return result;
  for (const IrqFd& other : irqfds_) {
    if (IsSameEventFd(other.fd.get(), asked.fd)) return -EBUSY;
  }
  irqfds_.push_back({.gsi = asked.gsi,
                     .fd = Hold(asked.fd),
                     .resample_fd = resample ? Hold(asked.resamplefd) : UniqueFd()});
  return 0;
}

int FakeVm::DeassignIrqFd(const kvm_irqfd& asked) {
  if (const int result = CheckEventFd(asked.fd); result != 0) return result;
  std::erase_if(irqfds_, [&](const IrqFd& other) {
    if (other.gsi != asked.gsi || !IsSameEventFd(other.fd.get(), asked.fd)) return false;
    if (TakeSignal(other.fd.get())) Inject(other.gsi);  // What was signalled before is delivered.
    return true;
  });
  return 0;  // Also where there was none.
}

int FakeVm::SetRouting(uintptr_t argument) {
  struct {
    uint32_t count;
    uint32_t flags;
  } header;
  if (Get(&header, argument) != 0) return -EFAULT;
  if (irqchip_ == Irqchip::kNone || header.count > kMaxRoutes || header.flags != 0) return -EINVAL;
  std::vector<kvm_irq_routing_entry> routes(header.count);
  if (CopyFromUser(routes.data(), argument + sizeof(header), routes.size() * sizeof(routes[0])) !=
      0) {
    return -EFAULT;
  }
  for (size_t i = 0; i < routes.size(); ++i) {
    const kvm_irq_routing_entry& route = routes[i];
    const bool chip = route.type == KVM_IRQ_ROUTING_IRQCHIP;
    if (route.gsi >= kMaxRoutes || (!chip && route.type != KVM_IRQ_ROUTING_MSI)) return -EINVAL;
    if (chip && (route.flags != 0 || route.u.irqchip.irqchip > 2)) return -EINVAL;
    if (chip && irqchip_ != Irqchip::kFull) return -EINVAL;
    for (size_t j = 0; j < i; ++j) {
      if (routes[j].gsi != route.gsi) continue;
      if (!chip || routes[j].type != KVM_IRQ_ROUTING_IRQCHIP ||
          routes[j].u.irqchip.irqchip == route.u.irqchip.irqchip) {
        return -EINVAL;
      }
    }
  }
  routes_ = std::move(routes);
  ++routing_updates_;
  return 0;
}

void FakeVm::Inject(uint32_t gsi) {
  for (const kvm_irq_routing_entry& route : routes_) {
    if (route.gsi != gsi) continue;
    Interrupt interrupt{.gsi = gsi};
    if (route.type == KVM_IRQ_ROUTING_MSI) {
      interrupt.msi_address = uint64_t{route.u.msi.address_hi} << 32 | route.u.msi.address_lo;
      interrupt.msi_data = route.u.msi.data;
    }
    pending_.push_back(interrupt);
    return;
  }
  // KVM_CREATE_IRQCHIP comes with routes for the pins.
  if (irqchip_ == Irqchip::kFull && routing_updates_ == 0 && gsi < 24) pending_.push_back({gsi});
}

std::vector<FakeVm::Interrupt> FakeVm::TakeInterrupts() {
  for (const IrqFd& irqfd : irqfds_) {
    if (TakeSignal(irqfd.fd.get())) Inject(irqfd.gsi);
  }
  return std::exchange(pending_, {});
}

bool FakeVm::GuestWrite(uint64_t address, uint32_t length, uint64_t value, bool port) {
  for (const IoEventFd& ioeventfd : ioeventfds_) {
    if (ioeventfd.port != port || ioeventfd.address != address) continue;
    if (ioeventfd.length != 0 && ioeventfd.length != length) continue;
    if (ioeventfd.datamatch && *ioeventfd.datamatch != value) continue;
    Signal(ioeventfd.fd.get());
    return true;
  }
  return false;
}

// ---- Memory ------------------------------------------------------------------------------------

int FakeVm::SetMemoryRegion(uintptr_t argument) {
  kvm_userspace_memory_region asked = {};
  if (Get(&asked, argument) != 0) return -EFAULT;
  if ((asked.flags & ~unsigned{KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY}) != 0) return -EINVAL;
  if (asked.memory_size % kPageBytes != 0 || asked.guest_phys_addr % kPageBytes != 0 ||
      asked.userspace_addr % kPageBytes != 0 || asked.slot >= kMaxSlots ||
      asked.guest_phys_addr + asked.memory_size < asked.guest_phys_addr ||
      !AccessOk(asked.userspace_addr, asked.memory_size)) {
    return -EINVAL;
  }
  const auto old = std::find_if(slots_.begin(), slots_.end(),
                                [&](const Slot& slot) { return slot.slot == asked.slot; });
  if (asked.memory_size == 0) {
    if (old == slots_.end()) return -EINVAL;
    slots_.erase(old);
    return 0;
  }
  for (const Slot& slot : slots_) {
    if (slot.slot == asked.slot) continue;
    if (asked.guest_phys_addr < slot.guest + slot.size &&
        slot.guest < asked.guest_phys_addr + asked.memory_size) {
      return -EEXIST;
    }
  }
  const Slot made{asked.slot, asked.flags, asked.guest_phys_addr, asked.memory_size,
                  asked.userspace_addr};
  if (old == slots_.end()) {
    slots_.push_back(made);
    return 0;
  }
  // A slot may move or change flags, but neither size nor host memory.
  if (old->size != made.size || old->host != made.host) return -EINVAL;
  *old = made;
  return 0;
}

int FakeVm::DirtyLog(uintptr_t argument) {
  kvm_dirty_log asked = {};
  if (Get(&asked, argument) != 0) return -EFAULT;
  for (const Slot& slot : slots_) {
    if (slot.slot != asked.slot || (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) == 0) continue;
    const std::vector<uint64_t> clean((slot.size / kPageBytes + 63) / 64);
    return CopyToUser(reinterpret_cast<uintptr_t>(asked.dirty_bitmap), clean.data(),
                      clean.size() * sizeof(clean[0]));
  }
  return -ENOENT;
}

void FakeVm::Count(OpenState& state) const {
  ++state.kvm_nodes;
  state.ioeventfds += static_cast<int>(ioeventfds_.size());
  state.irqfds += static_cast<int>(irqfds_.size());
  state.memory_slots += static_cast<int>(slots_.size());
  state.held_fds += static_cast<int>(ioeventfds_.size() + irqfds_.size());
  for (const IrqFd& irqfd : irqfds_) state.held_fds += irqfd.resample_fd.valid();
}

}  // namespace fakes

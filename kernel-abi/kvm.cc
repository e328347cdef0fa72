// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/kvm.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/bit_names.h"

namespace {

using kernel_abi::BitName;

constexpr BitName kIoEventFdFlags[] = {
    {kvm_ioeventfd_flag_nr_datamatch, "DATAMATCH"},
    {kvm_ioeventfd_flag_nr_pio, "PIO"},
    {kvm_ioeventfd_flag_nr_deassign, "DEASSIGN"},
};
constexpr BitName kIrqFdFlags[] = {{0, "DEASSIGN"}, {1, "RESAMPLE"}};
constexpr BitName kMemoryFlags[] = {{0, "LOG_DIRTY_PAGES"}, {1, "READONLY"}};

std::string Flags(uint64_t flags, std::span<const BitName> names) {
  return flags == 0 ? "0" : kernel_abi::BitNames(flags, names, "|");
}

// So many entries of a table are listed in a message.
constexpr size_t kEntriesShown = 4;

}  // namespace

std::string Describe(const kvm_ioeventfd& ioeventfd) {
  std::string text = absl::StrFormat("fd=%d addr=%#x len=%u flags=%s", ioeventfd.fd, ioeventfd.addr,
                                     ioeventfd.len, Flags(ioeventfd.flags, kIoEventFdFlags));
  if ((ioeventfd.flags & KVM_IOEVENTFD_FLAG_DATAMATCH) != 0) {
    absl::StrAppend(&text, " datamatch=", ioeventfd.datamatch);
  }
  return text;
}

std::string Describe(const kvm_irqfd& irqfd) {
  std::string text =
      absl::StrCat("fd=", irqfd.fd, " gsi=", irqfd.gsi, " flags=", Flags(irqfd.flags, kIrqFdFlags));
  if ((irqfd.flags & KVM_IRQFD_FLAG_RESAMPLE) != 0) {
    absl::StrAppend(&text, " resamplefd=", irqfd.resamplefd);
  }
  return text;
}

std::string Describe(const kvm_irq_routing_entry& entry) {
  switch (entry.type) {
    case KVM_IRQ_ROUTING_IRQCHIP:
      return absl::StrFormat("gsi %u: irqchip %u pin %u", entry.gsi, entry.u.irqchip.irqchip,
                             entry.u.irqchip.pin);
    case KVM_IRQ_ROUTING_MSI:
      return absl::StrFormat("gsi %u: MSI %#x data %#x", entry.gsi,
                             uint64_t{entry.u.msi.address_hi} << 32 | entry.u.msi.address_lo,
                             entry.u.msi.data);
    default:
      return absl::StrFormat("gsi %u: type %u", entry.gsi, entry.type);
  }
}

std::string Describe(const kvm_userspace_memory_region& region) {
  return absl::StrFormat("slot=%u flags=%s guest=%#x size=%#x host=%#x", region.slot,
                         Flags(region.flags, kMemoryFlags), region.guest_phys_addr,
                         region.memory_size, region.userspace_addr);
}

std::string Describe(const kvm_dirty_log& log) { return absl::StrCat("slot=", log.slot); }

std::string Describe(const kvm_clear_dirty_log& log) {
  return absl::StrCat("slot=", log.slot, " first_page=", log.first_page, " pages=", log.num_pages);
}

std::string Describe(const kvm_msi& msi) {
  return absl::StrFormat("address=%#x data=%#x", uint64_t{msi.address_hi} << 32 | msi.address_lo,
                         msi.data);
}

std::string Describe(const kvm_irq_level& level) {
  return absl::StrCat("gsi=", level.irq, " level=", level.level);
}

std::string Describe(const kvm_enable_cap& capability) {
  return absl::StrFormat("cap=%u flags=%#x args=%#x,%#x", capability.cap, capability.flags,
                         capability.args[0], capability.args[1]);
}

std::string Describe(const kvm_mp_state& state) { return absl::StrCat("state=", state.mp_state); }

#if defined(__x86_64__)
std::string Describe(const kvm_regs& registers) {
  return absl::StrFormat("rip=%#x rsp=%#x rflags=%#x", registers.rip, registers.rsp,
                         registers.rflags);
}

std::string Describe(const kvm_sregs& registers) {
  return absl::StrFormat("cr0=%#x cr3=%#x cr4=%#x efer=%#x cs=%#x", registers.cr0, registers.cr3,
                         registers.cr4, registers.efer, registers.cs.selector);
}

std::string Describe(const kvm_fpu& fpu) {
  return absl::StrFormat("fcw=%#x mxcsr=%#x", fpu.fcw, fpu.mxcsr);
}

std::string Describe(const kvm_irqchip& chip) { return absl::StrCat("chip=", chip.chip_id); }

std::string Describe(const kvm_pit_config& pit) { return absl::StrFormat("flags=%#x", pit.flags); }

std::string Describe(const kvm_pit_state2& pit) { return absl::StrFormat("flags=%#x", pit.flags); }

std::string Describe(const kvm_lapic_state& /*lapic*/) { return {}; }

std::string Describe(const kvm_clock_data& clock) {
  return absl::StrFormat("clock=%u flags=%#x", clock.clock, clock.flags);
}

std::string Describe(const kvm_interrupt& interrupt) {
  return absl::StrCat("vector=", interrupt.irq);
}

std::string Describe(const kvm_vcpu_events& events) {
  return absl::StrFormat("flags=%#x", events.flags);
}

std::string Describe(const kvm_xcrs& registers) {
  return absl::StrFormat("%u registers, xcr0=%#x", registers.nr_xcrs, registers.xcrs[0].value);
}

std::string Describe(const kvm_debugregs& registers) {
  return absl::StrFormat("dr6=%#x dr7=%#x", registers.dr6, registers.dr7);
}
#endif

namespace kernel_abi {

std::string Describe(const IrqRoutingTable& table) {
  const std::span<const kvm_irq_routing_entry> entries = table.entries();
  std::string text = absl::StrCat(entries.size(), entries.size() == 1 ? " entry" : " entries");
  for (size_t i = 0; i < entries.size() && i < kEntriesShown; ++i) {
    absl::StrAppend(&text, i == 0 ? ": " : ", ", ::Describe(entries[i]));
  }
  if (entries.size() > kEntriesShown) {
    absl::StrAppend(&text, ", and ", entries.size() - kEntriesShown, " more");
  }
  return text;
}

std::string DescribeCapability(const ByValue<unsigned>& capability) {
  return absl::StrCat("cap=", capability.value);
}

std::string DescribeAddress(const ByValue<uint64_t>& address) {
  return absl::StrFormat("%#x", address.value);
}

#if defined(__x86_64__)
std::string Describe(const MsrTable& table) {
  std::string text = absl::StrCat(table.entries().size(), " MSRs");
  for (size_t i = 0; i < table.entries().size() && i < kEntriesShown; ++i) {
    absl::StrAppendFormat(&text, "%s%#x", i == 0 ? ": " : " ", table.entries()[i].index);
  }
  return text;
}

std::string Describe(const CpuidTable& table) {
  return absl::StrCat(table.entries().size(), " leaves");
}
#endif

}  // namespace kernel_abi

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Contract of KVM as far as wiring goes: ioeventfd, irqfd, GSI routes, memory slots.
#include "kernel-abi/kvm.h"

#include "tests/contract/vhost_node.h"

namespace contract {
namespace {

using namespace kernel_abi;  // NOLINT

enum class Irqchip { kFull, kSplit };

class KvmContract : public KernelUnderTest, public testing::WithParamInterface<Side> {
 protected:
  void SetUp() override {
    Begin(GetParam(), kKvmPath);
    if (IsSkipped()) return;
    system_ = Open(kKvmPath);
    vm_ = UniqueFd(static_cast<int>(Ask(system_.get(), kKvmCreateVm, {0}).result));
    if (!vm_.valid()) GTEST_SKIP() << "skipped: KVM makes no VMs here";
  }
  int vm() const { return vm_.get(); }
  void Make(Irqchip irqchip) {
    if (irqchip == Irqchip::kFull) {
      ASSERT_EQ(Ask(vm(), kKvmCreateIrqchip), Ok());
      return;
    }
    kvm_enable_cap split = {};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = 24;
    ASSERT_EQ(Ask(vm(), kKvmEnableCap, split), Ok());
  }
  Answer IoEventFd(int fd, uint64_t address, uint32_t length, uint32_t flags = 0,
                   uint64_t datamatch = 0) {
    kvm_ioeventfd asked = {};
    asked.datamatch = datamatch;
    asked.addr = address;
    asked.len = length;
    asked.fd = fd;
    asked.flags = flags;
    return Ask(vm(), kKvmIoEventFd, asked);
  }
  Answer IrqFd(int fd, uint32_t gsi, uint32_t flags = 0, int resample = 0) {
    kvm_irqfd asked = {};
    asked.fd = static_cast<uint32_t>(fd);
    asked.gsi = gsi;
    asked.flags = flags;
    asked.resamplefd = static_cast<uint32_t>(resample);
    return Ask(vm(), kKvmIrqFd, asked);
  }
  static kvm_irq_routing_entry Msi(uint32_t gsi) {
    kvm_irq_routing_entry entry = {};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = 0xfee00000;
    entry.u.msi.data = 0x4041;
    return entry;
  }
  static kvm_irq_routing_entry Pin(uint32_t gsi, uint32_t chip, uint32_t pin) {
    kvm_irq_routing_entry entry = {};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip = {chip, pin};
    return entry;
  }
  Answer Route(const IrqRoutingTable& table) { return Ask(vm(), kKvmSetGsiRouting, table); }
  Answer Region(uint32_t slot, uint64_t guest, uint64_t size, uint64_t host, uint32_t flags = 0) {
    return Ask(vm(), kKvmSetUserMemoryRegion, {slot, flags, guest, size, host});
  }

  static constexpr uint64_t kDoorbell = 0xd0000050;
  static constexpr uint32_t kMatch = KVM_IOEVENTFD_FLAG_DATAMATCH;
  static constexpr uint32_t kRemove = KVM_IOEVENTFD_FLAG_DEASSIGN;
  static constexpr uint32_t kPort = KVM_IOEVENTFD_FLAG_PIO;
  UniqueFd system_, vm_;
};

TEST_P(KvmContract, SaysItsVersionAndWhatItCan) {
  EXPECT_EQ(Ask(system_.get(), kKvmGetApiVersion), Answer(kKvmApiVersion));
  for (const unsigned capability :
       {KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD, KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_IOEVENTFD_ANY_LENGTH,
        KVM_CAP_SIGNAL_MSI, KVM_CAP_SPLIT_IRQCHIP}) {
    EXPECT_EQ(Ask(system_.get(), kKvmCheckExtension, {capability}), Answer(1)) << capability;
  }
  EXPECT_EQ(Ask(system_.get(), kKvmCheckExtension, {0xffffff}), Ok()) << "none of that number";
  EXPECT_GE(Ask(system_.get(), kKvmGetVcpuMmapSize).result, 4096);
}

// ---- ioeventfd ---------------------------------------------------------------------------------

TEST_P(KvmContract, IoEventFdsOfOneAddressMustDiffer) {
  const UniqueFd a = EventFd(), b = EventFd();
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch, 0), Ok());
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 4, kMatch, 0), Refused(EEXIST));
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 4, kMatch, 1), Ok()) << "another value";
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 4), Refused(EEXIST)) << "any value covers one";
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 0), Refused(EEXIST)) << "any length covers one";
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 2), Ok()) << "another length";
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell + 4, 4), Ok()) << "another address";
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 4, kPort), Ok()) << "another bus";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell + 4, 4), Refused(EEXIST)) << "whichever the eventfd";
}

TEST_P(KvmContract, IoEventFdOfAnyLengthTakesAllOfItsAddress) {
  const UniqueFd a = EventFd();
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 0), Ok());
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch, 7), Refused(EEXIST));
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 0, kRemove), Ok());
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch, 7), Ok());
}

TEST_P(KvmContract, IoEventFdIsDeassignedByAllThatItWasAssignedWith) {
  const UniqueFd a = EventFd(), b = EventFd();
  ASSERT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch, 3), Ok());
  EXPECT_EQ(IoEventFd(b.get(), kDoorbell, 4, kMatch | kRemove, 3), Refused(ENOENT)) << "eventfd";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 2, kMatch | kRemove, 3), Refused(ENOENT)) << "length";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch | kRemove, 4), Refused(ENOENT)) << "value";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kRemove, 3), Refused(ENOENT)) << "match";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch | kRemove | kPort, 3), Refused(ENOENT))
      << "bus";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch | kRemove, 3), Ok());
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, kMatch | kRemove, 3), Refused(ENOENT)) << "gone";
}

TEST_P(KvmContract, IoEventFdArgumentsAreChecked) {
  const UniqueFd a = EventFd();
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 3), Refused(EINVAL));
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 16), Refused(EINVAL));
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 0, kMatch, 0), Refused(EINVAL));
  EXPECT_EQ(IoEventFd(a.get(), ~uint64_t{0}, 4), Refused(EINVAL)) << "wraps";
  EXPECT_EQ(IoEventFd(a.get(), kDoorbell, 4, 1u << 20), Refused(EINVAL));
  EXPECT_EQ(IoEventFd(DevNull().get(), kDoorbell, 4), Refused(EINVAL));
  EXPECT_EQ(IoEventFd(kBadFd, kDoorbell, 4), Refused(EBADF));
  EXPECT_EQ(AskNull(vm(), kKvmIoEventFd), Refused(EFAULT));
}

// ---- irqfd -------------------------------------------------------------------------------------

TEST_P(KvmContract, IrqFdNeedsAnInterruptController) {
  const UniqueFd a = EventFd();
  EXPECT_EQ(IrqFd(a.get(), 5), Refused(EINVAL));
  EXPECT_EQ(Route({Msi(24)}), Refused(EINVAL));
  Make(Irqchip::kFull);
  EXPECT_EQ(IrqFd(a.get(), 5), Ok());
}

TEST_P(KvmContract, AnEventFdHasOneIrqFd) {
  Make(Irqchip::kFull);
  const UniqueFd a = EventFd(), b = EventFd();
  ASSERT_EQ(IrqFd(a.get(), 5), Ok());
  EXPECT_EQ(IrqFd(a.get(), 5), Refused(EBUSY));
  EXPECT_EQ(IrqFd(a.get(), 6), Refused(EBUSY)) << "nor of another GSI";
  EXPECT_EQ(IrqFd(b.get(), 5), Ok()) << "a GSI has many";
  EXPECT_EQ(IrqFd(a.get(), 6, KVM_IRQFD_FLAG_DEASSIGN), Ok()) << "not assigned: not an error";
  EXPECT_EQ(IrqFd(a.get(), 6), Refused(EBUSY)) << "and nothing was";
  EXPECT_EQ(IrqFd(a.get(), 5, KVM_IRQFD_FLAG_DEASSIGN), Ok());
  EXPECT_EQ(IrqFd(a.get(), 6), Ok());
}

TEST_P(KvmContract, IrqFdArgumentsAreChecked) {
  Make(Irqchip::kFull);
  const UniqueFd a = EventFd();
  EXPECT_EQ(IrqFd(DevNull().get(), 5), Refused(EINVAL));
  EXPECT_EQ(IrqFd(kBadFd, 5), Refused(EBADF));
  EXPECT_EQ(IrqFd(a.get(), 5, 1u << 10), Refused(EINVAL));
  EXPECT_EQ(IrqFd(a.get(), 5, KVM_IRQFD_FLAG_RESAMPLE, kBadFd), Refused(EBADF));
  EXPECT_EQ(IrqFd(kBadFd, 5, KVM_IRQFD_FLAG_DEASSIGN), Refused(EBADF));
  EXPECT_EQ(IrqFd(a.get(), 4000), Ok()) << "a GSI without a route, even beyond the table";
}

TEST_P(KvmContract, ResamplingNeedsTheWholeControllerInTheKernel) {
  Make(Irqchip::kSplit);
  const UniqueFd a = EventFd(), b = EventFd();
  EXPECT_EQ(IrqFd(a.get(), 5, KVM_IRQFD_FLAG_RESAMPLE, b.get()), Refused(EINVAL));
  EXPECT_EQ(IrqFd(a.get(), 5), Ok());
}

// ---- Routes ------------------------------------------------------------------------------------

TEST_P(KvmContract, RoutesAreReplacedAsAWholeAndChecked) {
  Make(Irqchip::kFull);
  EXPECT_EQ(Route({Msi(24), Msi(25)}), Ok());
  EXPECT_EQ(Route(IrqRoutingTable()), Ok()) << "none at all";
  EXPECT_EQ(Route({Msi(24), Msi(24)}), Refused(EINVAL)) << "a GSI twice";
  EXPECT_EQ(Route({Msi(4096)}), Refused(EINVAL)) << "beyond the last GSI";
  EXPECT_EQ(Route({Msi(4095)}), Ok());
  EXPECT_EQ(Route({Pin(4, 0, 4), Pin(4, 2, 4)}), Ok()) << "a pin of both chips";
  EXPECT_EQ(Route({Pin(4, 0, 4), Pin(4, 0, 5)}), Refused(EINVAL));
  EXPECT_EQ(Route({Pin(4, 0, 4), Msi(4)}), Refused(EINVAL));
  EXPECT_EQ(Route({Pin(4, 7, 4)}), Refused(EINVAL)) << "no such chip";
  IrqRoutingTable flagged{Msi(24)};
  flagged.set_flags(1);
  EXPECT_EQ(Route(flagged), Refused(EINVAL));
}

TEST_P(KvmContract, ASplitControllerHasNoPins) {
  Make(Irqchip::kSplit);
  EXPECT_EQ(Route({Msi(24)}), Ok());
  EXPECT_EQ(Route({Pin(4, 2, 4)}), Refused(EINVAL));
}

TEST_P(KvmContract, ControllersAreMadeOnce) {
  Make(Irqchip::kFull);
  EXPECT_EQ(Ask(vm(), kKvmCreateIrqchip), Refused(EEXIST));
  kvm_enable_cap split = {};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = 24;
  EXPECT_EQ(Ask(vm(), kKvmEnableCap, split), Refused(EEXIST));
}

TEST_P(KvmContract, MsisNeedAController) {
  kvm_msi msi = {};
  msi.address_lo = 0xfee00000;
  msi.data = 0x41;
  EXPECT_EQ(Ask(vm(), kKvmSignalMsi, msi), Refused(EINVAL));
  kvm_irq_level level = {};
  level.irq = 5;
  level.level = 1;
  EXPECT_EQ(Ask(vm(), kKvmIrqLine, level), Refused(ENXIO));
}

// ---- Memory slots ------------------------------------------------------------------------------

TEST_P(KvmContract, SlotsAreAlignedApartAndGoneWithSizeZero) {
  Memory memory;
  const uint64_t host = memory.address();
  EXPECT_EQ(Region(0, 0, 0x10000, host), Ok());
  EXPECT_EQ(Region(1, 0x8000, 0x10000, host), Refused(EEXIST)) << "overlaps";
  EXPECT_EQ(Region(1, 0x10000, 0x10000, host), Ok()) << "host memory may be shared";
  EXPECT_EQ(Region(2, 0x20001, 0x1000, host), Refused(EINVAL));
  EXPECT_EQ(Region(2, 0x20000, 0x1001, host), Refused(EINVAL));
  EXPECT_EQ(Region(2, 0x20000, 0x1000, host + 1), Refused(EINVAL));
  EXPECT_EQ(Region(2, 0x20000, 0x1000, Memory::kKernelAddress), Refused(EINVAL));
  EXPECT_EQ(Region(0, 0, 0x8000, host), Refused(EINVAL)) << "its size is fixed";
  EXPECT_EQ(Region(0, 0, 0x10000, host + 0x1000), Refused(EINVAL)) << "so is what is behind it";
  EXPECT_EQ(Region(0, 0, 0x10000, host, KVM_MEM_LOG_DIRTY_PAGES), Ok());
  EXPECT_EQ(Region(0, 0x100000, 0x10000, host, KVM_MEM_LOG_DIRTY_PAGES), Ok()) << "it may move";
  EXPECT_EQ(Region(0, 0x100000, 0, 0), Ok());
  EXPECT_EQ(Region(0, 0x100000, 0, 0), Refused(EINVAL)) << "gone";
}

TEST_P(KvmContract, DirtyPagesAreOfSlotsThatLog) {
  Memory memory;
  ASSERT_EQ(Region(0, 0, 0x10000, memory.address()), Ok());
  uint64_t bitmap = ~uint64_t{0};
  kvm_dirty_log log = {};
  log.dirty_bitmap = &bitmap;
  EXPECT_EQ(Ask(vm(), kKvmGetDirtyLog, log), Refused(ENOENT));
  ASSERT_EQ(Region(0, 0, 0x10000, memory.address(), KVM_MEM_LOG_DIRTY_PAGES), Ok());
  EXPECT_EQ(Ask(vm(), kKvmGetDirtyLog, log), Ok());
  EXPECT_EQ(bitmap, 0u) << "nothing ran";
}

TEST_P(KvmContract, VcpusHaveNumbers) {
  UniqueFd first(static_cast<int>(Ask(vm(), kKvmCreateVcpu, {0}).result));
  EXPECT_TRUE(first.valid());
  EXPECT_EQ(Ask(vm(), kKvmCreateVcpu, {0}), Refused(EEXIST));
  EXPECT_EQ(Ask(vm(), kKvmCreateIrqchip), Refused(EINVAL)) << "too late";
}

INSTANTIATE_TEST_SUITE_P(Kernels, KvmContract, testing::ValuesIn(AllSides()), SideName);

}  // namespace
}  // namespace contract

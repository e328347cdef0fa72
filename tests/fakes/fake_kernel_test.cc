// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the fake kernel does beyond answering like Linux (that is the contract suite's matter): real
// descriptors whose last close is noticed, faults, the log, and the levers for tests.
#include "tests/fakes/fake_kernel.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/node.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/vhost.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT
using testing::ElementsAre;
using testing::HasSubstr;

// A ring that lies in this process's memory.
struct Ring {
  alignas(16) std::array<std::byte, 4096> desc = {};
  alignas(16) std::array<std::byte, 4096> avail = {};
  alignas(16) std::array<std::byte, 4096> used = {};

  vhost_vring_addr Address(unsigned index) {
    return {.index = index,
            .flags = 0,
            .desc_user_addr = reinterpret_cast<uintptr_t>(desc.data()),
            .used_user_addr = reinterpret_cast<uintptr_t>(used.data()),
            .avail_user_addr = reinterpret_cast<uintptr_t>(avail.data()),
            .log_guest_addr = 0};
  }
};

class FakeKernelTest : public testing::Test {
 protected:
  UniqueFd Open(const char* path) { return *OpenNode(kernel_, path); }
  template <typename Argument>
  void Ask(int fd, const Request<Argument>& request, Argument argument) {
    const auto result = Call({kernel_, fd, "node"}, request, argument);
    ASSERT_TRUE(result.ok()) << result.status();
  }
  UniqueFd OpenTap(const char* name, short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) {
    UniqueFd tap = Open(kTunPath);
    Ask(tap.get(), kTunSetIff, InterfaceRequest(name, flags));
    return tap;
  }
  // A vhost-net fd with both rings at `rings`, and the TAP behind them.
  UniqueFd Start(std::array<Ring, 2>& rings, int tap) {
    UniqueFd fd = Open(kVhostNetPath);
    Ask(fd.get(), kVhostSetOwner, Nothing());
    Ask(fd.get(), kVhostSetMemTable, MemoryTable{{0, 1 << 20, 0x10000, 0}});
    for (unsigned i = 0; i < 2; ++i) {
      Ask(fd.get(), kVhostSetVringNum, {i, 256});
      Ask(fd.get(), kVhostSetVringAddr, rings[i].Address(i));
      Ask(fd.get(), kVhostNetSetBackend, {i, tap});
    }
    return fd;
  }
  FakeKernel kernel_;
};

TEST_F(FakeKernelTest, LastCloseReleasesWhatTheNodeHeld) {
  const int before = CountOpenFds();
  {
    std::array<Ring, 2> rings;
    UniqueFd tap = OpenTap("tap0");
    UniqueFd vhost = Start(rings, tap.get());
    const UniqueFd copy(kernel_.Duplicate(vhost.get()));
    tap.Reset();
    EXPECT_EQ(kernel_.Survivors().tun_queues, 1) << "vhost has a reference of the TAP";
    vhost.Reset();
    EXPECT_EQ(kernel_.Survivors().attached_backends, 2) << "a copy is open";
  }
  EXPECT_EQ(kernel_.Survivors(), OpenState{}) << kernel_.Survivors().Text();
  EXPECT_EQ(CountOpenFds(), before);
}

TEST_F(FakeKernelTest, HeldEventFdsAreCountedAndReleasedWithTheirNode) {
  UniqueFd vhost = Open(kVhostVsockPath);
  Ask(vhost.get(), kVhostSetOwner, Nothing());
  const EventFd call = *EventFd::Create(kernel_);
  Ask(vhost.get(), kVhostSetVringCall, {0, call.get()});
  Ask(vhost.get(), kVhostSetVringErr, {0, call.get()});
  EXPECT_EQ(kernel_.Survivors().held_fds, 2);
  vhost.Reset();
  EXPECT_EQ(kernel_.Survivors().held_fds, 0);
}

TEST_F(FakeKernelTest, TheKthCallFailsAndNoOther) {
  kernel_.FailCall(2, EMFILE);
  const UniqueFd first(kernel_.EventFd(0, 0));
  EXPECT_TRUE(first.valid());
  EXPECT_FALSE(kernel_.FaultMet());
  EXPECT_EQ(kernel_.EventFd(0, 0), -EMFILE);
  EXPECT_TRUE(kernel_.FaultMet());
  EXPECT_EQ(kernel_.FaultText(), "eventfd");
  const UniqueFd third(kernel_.EventFd(0, 0));
  EXPECT_TRUE(third.valid());
}

TEST_F(FakeKernelTest, ARequestFailsByName) {
  const UniqueFd vhost = Open(kVhostNetPath);
  kernel_.FailRequest("VHOST_SET_OWNER", ENOMEM);
  uint64_t features = 0;
  Ask(vhost.get(), kVhostGetFeatures, features);
  const auto result = Call({kernel_, vhost.get(), "/dev/vhost-net"}, kVhostSetOwner);
  EXPECT_EQ(result.status().message(),
            "/dev/vhost-net: VHOST_SET_OWNER: ENOMEM (Cannot allocate memory)");
  EXPECT_FALSE(kernel_.vhost(vhost.get())->has_owner());
}

TEST_F(FakeKernelTest, TheLogNamesCallsWithTheirArguments) {
  const UniqueFd vhost = Open(kVhostNetPath);
  Ask(vhost.get(), kVhostSetOwner, Nothing());
  (void)Call({kernel_, vhost.get(), ""}, kVhostSetVringNum, vhost_vring_state{1, 300});
  EXPECT_THAT(Names(kernel_.calls(), "VHOST_"),
              ElementsAre("VHOST_SET_OWNER", "VHOST_SET_VRING_NUM"));
  EXPECT_EQ(kernel_.CallText(),
            "open(/dev/vhost-net)\nVHOST_SET_OWNER\n"
            "VHOST_SET_VRING_NUM(index=1 num=300) = EINVAL (Invalid argument)\n");
}

TEST_F(FakeKernelTest, TheWorkerMovesTheBaseAndCalls) {
  std::array<Ring, 2> rings;
  const UniqueFd tap = OpenTap("tap0");
  const UniqueFd fd = Start(rings, tap.get());
  const EventFd call = *EventFd::Create(kernel_);
  const EventFd error = *EventFd::Create(kernel_);
  Ask(fd.get(), kVhostSetVringCall, {1, call.get()});
  Ask(fd.get(), kVhostSetVringErr, {1, error.get()});
  FakeVhost* vhost = kernel_.vhost(fd.get());

  EXPECT_TRUE(vhost->Work(1, 5));
  EXPECT_TRUE(call.Drain());
  vhost_vring_state base{1, 0};
  ASSERT_TRUE(Call({kernel_, fd.get(), ""}, kVhostGetVringBase, base).ok());
  EXPECT_EQ(base.num, 5u);
  EXPECT_EQ(std::to_integer<int>(rings[1].used[2]), 5) << "the used index, in guest memory";

  EXPECT_TRUE(vhost->RaiseError(1));
  EXPECT_TRUE(error.IsSignalled());
  Ask(fd.get(), kVhostNetSetBackend, {1, -1});
  EXPECT_FALSE(vhost->Work(1, 6)) << "it does not run";
}

TEST_F(FakeKernelTest, PacketsPassATap) {
  const UniqueFd tap = OpenTap("tap0");
  const int wire = kernel_.wire_fd(tap.get());
  ASSERT_EQ(kernel_.Write(tap.get(), "frame", 5), 5);
  char buffer[16];
  EXPECT_EQ(::read(wire, buffer, sizeof(buffer)), 5);
  ASSERT_EQ(::write(wire, "answer", 6), 6);
  EXPECT_EQ(kernel_.Read(tap.get(), buffer, sizeof(buffer)), 6);
}

TEST_F(FakeKernelTest, MissingModulesAndPermissionsAreAnsweredAtOpen) {
  FakeKernelOptions options;
  options.vhost_net = false;
  options.open_errors["/dev/kvm"] = EACCES;
  FakeKernel bare(options);
  EXPECT_THAT(OpenNode(bare, kVhostNetPath).status().message(), HasSubstr("modprobe vhost_net"));
  EXPECT_THAT(OpenNode(bare, kKvmPath).status().message(), HasSubstr("EACCES"));
  EXPECT_TRUE(OpenNode(bare, kVhostVsockPath).ok());
}

TEST_F(FakeKernelTest, LimitsAreReadFromSysfs) {
  kernel_.mutable_options().max_mem_regions = 8;
  EXPECT_EQ(*ReadNumber(kernel_, kVhostMaxMemRegionsPath), 8);
  EXPECT_EQ(*ReadNumber(kernel_, kVhostMaxIotlbEntriesPath), 2048);
}

TEST_F(FakeKernelTest, TheGuestWritesAndIsInterrupted) {
  const UniqueFd system = Open(kKvmPath);
  const UniqueFd vm_fd(*Call({kernel_, system.get(), ""}, kKvmCreateVm, ByValue<unsigned>{0}));
  Ask(vm_fd.get(), kKvmCreateIrqchip, Nothing());
  const EventFd kick = *EventFd::Create(kernel_);
  const EventFd call = *EventFd::Create(kernel_);
  kvm_ioeventfd notify = {.datamatch = 1, .addr = 0xd0000050, .len = 4, .fd = kick.get()};
  notify.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  Ask(vm_fd.get(), kKvmIoEventFd, notify);
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(call.get());
  irqfd.gsi = 24;
  Ask(vm_fd.get(), kKvmIrqFd, irqfd);
  kvm_irq_routing_entry route = {.gsi = 24, .type = KVM_IRQ_ROUTING_MSI};
  route.u.msi.address_lo = 0xfee00000;
  route.u.msi.data = 0x41;
  Ask(vm_fd.get(), kKvmSetGsiRouting, IrqRoutingTable{route});

  FakeVm* vm = kernel_.vm(vm_fd.get());
  EXPECT_FALSE(vm->GuestWrite(0xd0000050, 4, 0));
  EXPECT_TRUE(vm->GuestWrite(0xd0000050, 4, 1));
  EXPECT_TRUE(kick.Drain());
  call.Signal();
  const std::vector<FakeVm::Interrupt> interrupts = vm->TakeInterrupts();
  ASSERT_EQ(interrupts.size(), 1u);
  EXPECT_EQ(interrupts[0].msi_address, 0xfee00000u);
  EXPECT_EQ(interrupts[0].msi_data, 0x41u);
  EXPECT_TRUE(vm->TakeInterrupts().empty());
}

}  // namespace
}  // namespace fakes

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kvm/vm_wiring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/wired_machine.h"
#include "vhost/kvm/routing_table.h"

namespace vhost::kvm {
namespace {

using kernel_abi::EventFd;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kMsi = 0xfee0'1000;

class VmWiringTest : public testing::Test {
 protected:
  explicit VmWiringTest(Irqchip irqchip = Irqchip::kFull, bool with_loop = true)
      : machine_(irqchip, with_loop) {}
  EventFd NewEvent() { return *EventFd::Create(machine_.kernel); }
  Wiring& wiring() { return *machine_.wiring; }

  fakes::WiredMachine machine_;
};

TEST_F(VmWiringTest, AnIoEventFdIsTakenBackAsItWasMade) {
  const EventFd event = NewEvent();
  for (const NotifyAddress& address :
       {NotifyAddress{.address = 0xc000'0000, .length = 0},
        NotifyAddress{.address = 0xc000'0000, .length = 4, .datamatch = 7},
        NotifyAddress{.space = NotifyAddress::Space::kPio, .address = 0xc010, .length = 2}}) {
    auto bound = wiring().BindNotify(address, event.get());
    ASSERT_TRUE(bound.ok()) << bound.status();
    EXPECT_STREQ((*bound)->how(), "ioeventfd");
    EXPECT_TRUE(machine_.vm().GuestWrite(address.address, address.length == 0 ? 2 : address.length,
                                         7, address.space == NotifyAddress::Space::kPio));
    EXPECT_TRUE(event.Drain());
    bound->reset();
    EXPECT_THAT(machine_.vm().ioeventfds(), IsEmpty());
  }
}

TEST_F(VmWiringTest, AnAddressThatIsTakenIsAnErrorThatNamesIt) {
  const EventFd event = NewEvent();
  auto first = wiring().BindNotify({.address = 0xc000'0000}, event.get());
  auto second = wiring().BindNotify({.address = 0xc000'0000}, event.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("KVM_IOEVENTFD"));
  EXPECT_THAT(second.status().message(), HasSubstr("0xc0000000"));
}

TEST_F(VmWiringTest, AVectorIsNotBoundBeforeItHasAMessage) {
  const EventFd event = NewEvent();
  auto vector = wiring().NewMsiVector();
  EXPECT_EQ((*vector)->Bind(event.get()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(VmWiringTest, WhatIsPendingWhenAVectorIsBoundIsSentAtOnce) {
  const EventFd event = NewEvent();
  auto vector = wiring().NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x55).ok());
  event.Signal();
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_STREQ((*bound)->how(), "irqfd");
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x55));
  bound->reset();
  event.Signal();
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
  EXPECT_TRUE(event.IsSignalled());
}

TEST_F(VmWiringTest, VectorsHaveGsisOfTheirOwnThatAreUsedAgain) {
  auto a = wiring().NewMsiVector();
  auto b = wiring().NewMsiVector();
  EXPECT_EQ((*a)->gsi(), RoutingTable::kFirstMsiGsi);
  EXPECT_EQ((*b)->gsi(), RoutingTable::kFirstMsiGsi + 1);
  a->reset();
  EXPECT_EQ((*wiring().NewMsiVector())->gsi(), RoutingTable::kFirstMsiGsi);
}

TEST_F(VmWiringTest, AnEdgePinHasOneEventFd) {
  const EventFd first = NewEvent();
  const EventFd second = NewEvent();
  auto bound = wiring().BindEdge(20, first.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_EQ(wiring().BindEdge(20, second.get()).status().code(), absl::StatusCode::kAlreadyExists);
  first.Signal();
  EXPECT_EQ(machine_.vm().TakeInterrupts().size(), 1u);
  bound->reset();
  EXPECT_TRUE(wiring().BindEdge(20, second.get()).ok());
}

TEST_F(VmWiringTest, ALineIsHighWhileAnyUserAssertsIt) {
  int a = 0;
  int b = 0;
  EXPECT_TRUE(wiring().SetLine(17, &a, true).ok());
  EXPECT_TRUE(wiring().SetLine(17, &b, true).ok());
  EXPECT_TRUE(wiring().SetLine(17, &a, false).ok());
  EXPECT_TRUE(machine_.lines[17]);
  EXPECT_TRUE(wiring().SetLine(17, &a, false).ok());
  EXPECT_TRUE(machine_.lines[17]);
  EXPECT_TRUE(wiring().SetLine(17, &b, false).ok());
  EXPECT_FALSE(machine_.lines[17]);
  EXPECT_EQ(machine_.rises[17], 1);
}

TEST_F(VmWiringTest, WhatIsLeftToTheVmsEndIsNotTakenBackOneByOne) {
  const EventFd event = NewEvent();
  auto bound = wiring().BindNotify({.address = 0xc000'0000}, event.get());
  auto edge = wiring().BindEdge(20, event.get());
  machine_.wiring->ReleaseWithVm();
  bound->reset();
  edge->reset();
  EXPECT_EQ(machine_.vm().ioeventfds().size(), 1u);
  EXPECT_EQ(machine_.vm().irqfds().size(), 1u);
}

TEST_F(VmWiringTest, AVmmsOwnRouterIsUsed) {
  class Router final : public MsiRouter {
   public:
    absl::StatusOr<uint32_t> Allocate() override { return 77; }
    void Free(uint32_t gsi) override { freed = gsi; }
    absl::Status SetMessage(uint32_t gsi, uint64_t address, uint32_t data) override {
      EXPECT_EQ(gsi, 77u);
      last = {address, data};
      return absl::OkStatus();
    }
    uint32_t freed = 0;
    std::pair<uint64_t, uint32_t> last;
  } router;
  auto wiring = VmWiring::Create(machine_.kernel, machine_.vm_fd(), {.msi_router = &router});
  ASSERT_TRUE(wiring.ok());
  auto vector = (*wiring)->NewMsiVector();
  EXPECT_TRUE((*vector)->SetMessage(kMsi, 3).ok());
  const EventFd event = NewEvent();
  auto bound = (*vector)->Bind(event.get());
  EXPECT_EQ(machine_.vm().irqfds()[0].gsi, 77u);
  EXPECT_EQ(router.last, (std::pair<uint64_t, uint32_t>{kMsi, 3}));
  EXPECT_EQ(machine_.vm().routing_updates(), 0);
  bound->reset();
  vector->reset();
  EXPECT_EQ(router.freed, 77u);
}

TEST_F(VmWiringTest, RoutesRunOutWithAMessageThatSaysSo) {
  auto table =
      RoutingTable::Create(machine_.kernel, machine_.vm_fd(), RoutingTable::FullIrqchipRoutes());
  ASSERT_TRUE(table.ok());
  int allocated = 0;
  absl::StatusOr<uint32_t> gsi = (*table)->Allocate();
  for (; gsi.ok(); gsi = (*table)->Allocate()) ++allocated;
  EXPECT_EQ(allocated, 4096 - 40);
  EXPECT_EQ(gsi.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*table)->SetMessage(4000, kMsi, 1).ok());
}

TEST_F(VmWiringTest, ATableThatKvmRefusesIsNamedAndChangesNothing) {
  auto vector = wiring().NewMsiVector();
  machine_.kernel.FailRequest("KVM_SET_GSI_ROUTING", ENOMEM);
  const absl::Status refused = (*vector)->SetMessage(kMsi, 1);
  EXPECT_EQ(kernel_abi::GetErrno(refused), ENOMEM);
  EXPECT_THAT(refused.message(), HasSubstr("KVM_SET_GSI_ROUTING"));
  EXPECT_TRUE((*vector)->SetMessage(kMsi, 1).ok());
}

// ---- Where no irqfd can deliver ----

class SplitIrqchipTest : public VmWiringTest {
 protected:
  SplitIrqchipTest() : VmWiringTest(Irqchip::kSplit) {}
};

TEST_F(SplitIrqchipTest, MessagesGoByIrqfdAndThePinsRoutesAreNotOurs) {
  const EventFd event = NewEvent();
  auto vector = wiring().NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x55).ok());
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_STREQ((*bound)->how(), "irqfd");
  EXPECT_EQ(machine_.vm().routes().size(), 1u);
  event.Signal();
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x55));
}

TEST_F(SplitIrqchipTest, AnEdgeIsAPulseOfTheVmmsPin) {
  const EventFd event = NewEvent();
  auto bound = wiring().BindEdge(20, event.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_STREQ((*bound)->how(), "thread");
  event.Signal();
  machine_.loop.Pump();
  event.Signal();
  machine_.loop.Pump();
  EXPECT_EQ(machine_.rises[20], 2);
  EXPECT_FALSE(machine_.lines[20]);
  bound->reset();
  EXPECT_EQ(machine_.loop.watches(), 0u);
}

class NoIrqchipTest : public VmWiringTest {
 protected:
  NoIrqchipTest() : VmWiringTest(Irqchip::kNone) {}
};

TEST_F(NoIrqchipTest, MessagesAreSentByTheVmmFromTheLoop) {
  const EventFd event = NewEvent();
  auto vector = wiring().NewMsiVector();
  EXPECT_EQ((*vector)->gsi(), std::nullopt);
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x55).ok());
  event.Signal();
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_STREQ((*bound)->how(), "thread");
  machine_.loop.Pump();
  ASSERT_EQ(machine_.sent.size(), 1u);
  EXPECT_EQ(machine_.sent[0].msi_address, kMsi);
  EXPECT_EQ(machine_.sent[0].msi_data, 0x55u);
  EXPECT_FALSE(event.IsSignalled());
  bound->reset();
  event.Signal();
  machine_.loop.Pump();
  EXPECT_EQ(machine_.sent.size(), 1u);
  EXPECT_TRUE(event.IsSignalled());
}

TEST_F(VmWiringTest, AnIrqfdThatKvmHasNobodyForFallsBackToSignalMsi) {
  const EventFd event = NewEvent();
  auto vector = wiring().NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x55).ok());
  machine_.kernel.FailRequest("KVM_IRQFD", EAGAIN);
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok());
  EXPECT_STREQ((*bound)->how(), "thread");
  event.Signal();
  machine_.loop.Pump();
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x55));
}

class NoLoopTest : public VmWiringTest {
 protected:
  NoLoopTest() : VmWiringTest(Irqchip::kSplit, false) {}
};

TEST_F(NoLoopTest, WithoutALoopItIsRefused) {
  const EventFd event = NewEvent();
  EXPECT_EQ(wiring().BindEdge(20, event.get()).status().code(), absl::StatusCode::kUnavailable);
  // And the pin is free again.
  EXPECT_EQ(wiring().BindEdge(20, event.get()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace vhost::kvm

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The wiring on the machine's own KVM: a guest's instructions reach eventfds, and eventfds reach
// the guest's interrupt controllers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/manual_loop.h"
#include "tests/fakes/pci_driver.h"
#include "tests/fakes/real_mode_guest.h"
#include "vhost/epoll_loop.h"
#include "vhost/kvm/vm_wiring.h"
#include "vhost/transport/virtio_mmio.h"
#include "vhost/transport/virtio_pci.h"

namespace vhost::kvm {
namespace {

using fakes::RealModeGuest;
using kernel_abi::EventFd;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr uint64_t kMsi = 0xfee0'0000;
constexpr uint64_t kRegisters = 0xd0000;  // no memory is there

class NativeWiringTest : public testing::Test {
 protected:
  explicit NativeWiringTest(bool split_irqchip = false) : split_irqchip_(split_irqchip) {}
  void SetUp() override {
    auto guest = RealModeGuest::Create(split_irqchip_);
    if (absl::IsNotFound(guest.status()) || absl::IsPermissionDenied(guest.status())) {
      GTEST_SKIP() << "skipped: " << guest.status().message();
    }
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = *std::move(guest);
    loop_ = *EpollLoop::Create();
    auto wiring =
        VmWiring::Create(kernel_, guest_->vm_fd(),
                         {.irqchip = split_irqchip_ ? Irqchip::kSplit : Irqchip::kFull,
                          .loop = loop_.get(),
                          .drive_line = split_irqchip_ ? [this](uint32_t, bool high) {
                            pulses_ += high ? 1 : 0;
                            return absl::OkStatus();
                          }
                          : std::function<absl::Status(uint32_t, bool)>()});
    ASSERT_TRUE(wiring.ok()) << wiring.status();
    wiring_ = *std::move(wiring);
  }
  EventFd NewEvent() { return *EventFd::Create(kernel_); }
  std::vector<uint64_t> Run() {
    absl::StatusOr<std::vector<uint64_t>> exits = guest_->Run();
    EXPECT_TRUE(exits.ok()) << exits.status();
    return exits.ok() ? *exits : std::vector<uint64_t>();
  }

  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  const bool split_irqchip_;
  std::unique_ptr<RealModeGuest> guest_;
  std::unique_ptr<EpollLoop> loop_;
  std::atomic<int> pulses_ = 0;
  std::unique_ptr<VmWiring> wiring_;
};

TEST_F(NativeWiringTest, WritesThatMatchDoNotExit) {
  const EventFd any = NewEvent();
  const EventFd one = NewEvent();
  const EventFd port = NewEvent();
  auto any_bound = wiring_->BindNotify({.address = kRegisters, .length = 0}, any.get());
  auto one_bound =
      wiring_->BindNotify({.address = kRegisters + 0x50, .length = 4, .datamatch = 1}, one.get());
  auto port_bound = wiring_->BindNotify(
      {.space = NotifyAddress::Space::kPio, .address = 0xc010, .length = 2}, port.get());
  ASSERT_TRUE(any_bound.ok() && one_bound.ok() && port_bound.ok());
  guest_->Store(kRegisters, 7, 2).Store(kRegisters, 7, 4).Store(kRegisters + 0x50, 1, 4);
  guest_->OutWord(0xc010, 5);
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_TRUE(any.Drain());
  EXPECT_TRUE(one.Drain());
  EXPECT_TRUE(port.Drain());

  guest_->Store(kRegisters + 4, 7, 2).Store(kRegisters + 0x50, 2, 4).Store(kRegisters + 0x50, 1, 2);
  EXPECT_THAT(Run(), ElementsAre(kRegisters + 4, kRegisters + 0x50, kRegisters + 0x50));

  any_bound->reset();
  port_bound->reset();
  guest_->Store(kRegisters, 7, 2).OutWord(0xc010, 5);
  EXPECT_THAT(Run(), ElementsAre(kRegisters, 0xc010u));
  EXPECT_FALSE(any.IsSignalled());
}

TEST_F(NativeWiringTest, AMessageIsDeliveredAndWhatIsPendingToo) {
  const EventFd event = NewEvent();
  auto vector = wiring_->NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x41).ok());
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_FALSE(guest_->RequestedNow(0x41));
  event.Signal();
  EXPECT_TRUE(guest_->Requested(0x41));
  EXPECT_FALSE(event.IsSignalled());
  guest_->ClearRequests();

  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x42).ok());
  event.Signal();
  EXPECT_TRUE(guest_->Requested(0x42));
  EXPECT_FALSE(guest_->RequestedNow(0x41));
  guest_->ClearRequests();

  bound->reset();
  event.Signal();
  EXPECT_TRUE(event.IsSignalled());
  bound = (*vector)->Bind(event.get());
  EXPECT_TRUE(guest_->Requested(0x42));
}

TEST_F(NativeWiringTest, AnEventFdThatHasAnIrqfdIsRefused) {
  const EventFd event = NewEvent();
  auto a = wiring_->NewMsiVector();
  auto b = wiring_->NewMsiVector();
  ASSERT_TRUE((*a)->SetMessage(kMsi, 0x41).ok());
  ASSERT_TRUE((*b)->SetMessage(kMsi, 0x42).ok());
  auto bound = (*a)->Bind(event.get());
  EXPECT_FALSE((*b)->Bind(event.get()).ok());
  bound->reset();
  EXPECT_TRUE((*b)->Bind(event.get()).ok());
}

TEST_F(NativeWiringTest, EdgesAndLinesReachTheirPinsBesideMessages) {
  ASSERT_TRUE(guest_->RoutePin(20, 0x60, false).ok());
  ASSERT_TRUE(guest_->RoutePin(17, 0x61, true).ok());
  // The table is set as a whole: pins must survive the first message.
  auto vector = wiring_->NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x41).ok());
  const EventFd event = NewEvent();
  auto edge = wiring_->BindEdge(20, event.get());
  ASSERT_TRUE(edge.ok()) << edge.status();
  for (int i = 0; i < 3; ++i) {
    event.Signal();
    EXPECT_TRUE(guest_->Requested(0x60));
    guest_->ClearRequests();
  }
  ASSERT_TRUE(wiring_->SetLine(17, this, true).ok());
  EXPECT_TRUE(guest_->Requested(0x61));
  ASSERT_TRUE(wiring_->SetLine(17, this, false).ok());
}

TEST_F(NativeWiringTest, AVirtioPciDeviceIsServedWithoutAnExit) {
  fakes::FakeDevice device(kernel_);
  auto function = VirtioPci::Create(kernel_, device, *wiring_, *loop_, {.location = "00:01.0"});
  ASSERT_TRUE(function.ok());
  fakes::PciDriver driver(**function);
  driver.PlaceBar(4, kRegisters, true);
  driver.SetCommand(0x6);
  ASSERT_TRUE(driver.WalkCapabilities());
  driver.EnableMsix();
  driver.SetMessage(1, kMsi, 0x71);
  driver.Unmask(1);
  ASSERT_EQ(driver.SetQueueVector(1, 1), 1);
  driver.SetStatus(0xf);

  guest_->Store(static_cast<uint32_t>(kRegisters + driver.NotifyOffset(1)), 1, 2);
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_TRUE(device.Kicked(1));
  device.UseBuffers(1);
  EXPECT_TRUE(guest_->Requested(0x71));
  guest_->ClearRequests();

  driver.Mask(1);
  device.UseBuffers(1);
  EXPECT_TRUE(driver.Pending(1));
  EXPECT_FALSE(guest_->RequestedNow(0x71));
  driver.Unmask(1);
  EXPECT_TRUE(guest_->Requested(0x71));
  EXPECT_FALSE(driver.Pending(1));
}

TEST_F(NativeWiringTest, AVirtioMmioDeviceIsServedWithoutAnExit) {
  fakes::FakeDevice device(kernel_);
  ASSERT_TRUE(guest_->RoutePin(21, 0x62, false).ok());
  auto transport =
      VirtioMmio::Create(kernel_, device, *wiring_, *loop_, {.address = kRegisters, .gsi = 21});
  ASSERT_TRUE(transport.ok()) << transport.status();
  guest_->Store(kRegisters + 0x50, 2, 4);
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_TRUE(device.Kicked(2));
  for (int queue = 0; queue < 3; ++queue) {
    device.UseBuffers(queue);
    EXPECT_TRUE(guest_->Requested(0x62)) << queue;
    guest_->ClearRequests();
  }
  device.ChangeConfig();
  EXPECT_TRUE(guest_->Requested(0x62));
}

class NativeSplitIrqchipTest : public NativeWiringTest {
 protected:
  NativeSplitIrqchipTest() : NativeWiringTest(true) {}
};

TEST_F(NativeSplitIrqchipTest, MessagesGoByIrqfdAndEdgesByTheThread) {
  const EventFd event = NewEvent();
  auto vector = wiring_->NewMsiVector();
  ASSERT_TRUE((*vector)->SetMessage(kMsi, 0x41).ok());
  auto bound = (*vector)->Bind(event.get());
  ASSERT_TRUE(bound.ok()) << bound.status();
  event.Signal();
  EXPECT_TRUE(guest_->Requested(0x41));

  const EventFd edge_event = NewEvent();
  auto edge = wiring_->BindEdge(20, edge_event.get());
  ASSERT_TRUE(edge.ok()) << edge.status();
  EXPECT_STREQ((*edge)->how(), "thread");
  edge_event.Signal();
  for (int i = 0; i < 1000 && pulses_ == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(pulses_, 1);
}

}  // namespace
}  // namespace vhost::kvm

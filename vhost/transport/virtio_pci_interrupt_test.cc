// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a guest is interrupted: MSI-X with its masks and pending bits, and the line.
#include "vhost/transport/virtio_pci_fixture.h"

namespace vhost {
namespace {

using fakes::PciDriver;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class VirtioPciInterruptTest : public VirtioPciFixture {};

// ---- MSI-X ----

TEST_F(VirtioPciInterruptTest, UsedBuffersAndConfigChangesAreSentByTheirVectors) {
  BringUp();
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
  device_.UseBuffers(1);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x42));
  device_.UseBuffers(2);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x42));
  device_.ChangeConfig();
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x40));
  EXPECT_EQ(driver_.Isr(), Intx::kIsrConfig);
  EXPECT_EQ(machine_.loop.watches(), 0u);  // no thread has a part in it
}

TEST_F(VirtioPciInterruptTest, AMaskedVectorKeepsWhatIsPending) {
  BringUp();
  driver_.Mask(1);
  EXPECT_FALSE(driver_.Pending(1));
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
  EXPECT_TRUE(driver_.Pending(1));
  EXPECT_FALSE(driver_.Pending(2));
  driver_.Unmask(1);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
  EXPECT_FALSE(driver_.Pending(1));
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
}

TEST_F(VirtioPciInterruptTest, MaskingASharedVectorSilencesAllOfItsQueues) {
  BringUp();
  driver_.Mask(2);
  device_.UseBuffers(1);
  device_.UseBuffers(2);
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
  EXPECT_TRUE(driver_.Pending(2));
  driver_.Unmask(2);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x42, 0x42));
}

TEST_F(VirtioPciInterruptTest, TheFunctionMaskMasksAll) {
  BringUp();
  driver_.SetMsixControl(0xc000);
  device_.UseBuffers(0);
  device_.ChangeConfig();
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
  EXPECT_TRUE(driver_.Pending(0));
  EXPECT_TRUE(driver_.Pending(1));
  driver_.SetMsixControl(0x8000);
  EXPECT_THAT(machine_.TakeMessages(), UnorderedElementsAre(0x40, 0x41));
}

TEST_F(VirtioPciInterruptTest, AMessageThatChangesWhileMaskedIsSentFromTheUnmaskOn) {
  BringUp();
  // As Linux moves an interrupt to another CPU.
  driver_.Mask(1);
  driver_.SetMessage(1, PciDriver::kMsiAddress | 0x1000, 0x99);
  device_.UseBuffers(0);
  driver_.Unmask(1);
  const auto interrupts = machine_.vm().TakeInterrupts();
  ASSERT_EQ(interrupts.size(), 1u);
  EXPECT_EQ(interrupts[0].msi_address, PciDriver::kMsiAddress | 0x1000);
  EXPECT_EQ(interrupts[0].msi_data, 0x99u);
}

TEST_F(VirtioPciInterruptTest, AMessageThatChangesWhileSentTakesEffectAtOnce) {
  BringUp();
  driver_.SetMessage(1, PciDriver::kMsiAddress, 0x77);
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x77));
}

TEST_F(VirtioPciInterruptTest, UnmaskingTheSameMessageSetsNoRoute) {
  BringUp();
  const int before = machine_.vm().routing_updates();
  EXPECT_EQ(before, 3);  // one a vector
  for (int i = 0; i < 5; ++i) {
    driver_.Mask(1);
    driver_.Unmask(1);
  }
  EXPECT_EQ(machine_.vm().routing_updates(), before);
}

TEST_F(VirtioPciInterruptTest, RoutesOfTheInterruptControllersStay) {
  BringUp();
  int pins = 0;
  for (const kvm_irq_routing_entry& route : machine_.vm().routes()) {
    pins += route.type == KVM_IRQ_ROUTING_IRQCHIP;
  }
  EXPECT_EQ(pins, 16 * 2 + 8);
}

TEST_F(VirtioPciInterruptTest, AVectorThatDoesNotExistReadsBackAsNone) {
  Enumerate();
  EXPECT_EQ(driver_.SetQueueVector(0, 4), kNoVector);
  EXPECT_EQ(driver_.SetConfigVector(0x7ff), kNoVector);
  EXPECT_EQ(driver_.SetQueueVector(0, 3), 3);
  EXPECT_EQ(driver_.SetQueueVector(0, kNoVector), kNoVector);
}

TEST_F(VirtioPciInterruptTest, AQueueWithoutAVectorInterruptsNobody) {
  BringUp();
  driver_.SetQueueVector(0, kNoVector);
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
  EXPECT_FALSE(driver_.Pending(1));
}

TEST_F(VirtioPciInterruptTest, ADeviceResetTakesTheVectorsAndForgetsSignals) {
  BringUp();
  driver_.Mask(1);
  device_.UseBuffers(0);
  driver_.SetStatus(0);
  EXPECT_EQ(driver_.Common(0x10, 2), kNoVector);
  driver_.Select(0);
  EXPECT_EQ(driver_.Common(0x1a, 2), kNoVector);
  EXPECT_THAT(machine_.vm().irqfds(), IsEmpty());
  EXPECT_EQ(driver_.SetQueueVector(0, 1), 1);
  driver_.Unmask(1);
  EXPECT_THAT(machine_.TakeMessages(), IsEmpty());
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
  EXPECT_EQ(machine_.vm().ioeventfds().size(), 3u);  // these stay
}

TEST_F(VirtioPciInterruptTest, AQueueResetTakesThatQueuesVectorAlone) {
  BringUp();
  driver_.AcceptFeatures(uint64_t{1} << 40 | uint64_t{1} << 32);
  driver_.SetUpQueue(0, 64, 0x1000, 0x2000, 0x3000);
  driver_.Select(0);
  driver_.SetCommon(0x3a, 1, 2);
  EXPECT_EQ(driver_.Common(0x3a, 2), 0u);
  EXPECT_EQ(driver_.Common(0x1c, 2), 0u);
  EXPECT_EQ(driver_.Common(0x1a, 2), kNoVector);
  driver_.Select(1);
  EXPECT_EQ(driver_.Common(0x1a, 2), 2u);
}

TEST_F(VirtioPciInterruptTest, AQueueIsNotResetWhereThatWasNotNegotiated) {
  BringUp();
  driver_.SetUpQueue(0, 64, 0x1000, 0x2000, 0x3000);
  driver_.SetCommon(0x3a, 1, 2);
  EXPECT_EQ(driver_.Common(0x1c, 2), 1u);
}

TEST_F(VirtioPciInterruptTest, AFailingIrqfdIsReportedAndTriedAgain) {
  Enumerate();
  driver_.EnableMsix();
  driver_.SetMessage(1, PciDriver::kMsiAddress, 0x41);
  EXPECT_EQ(driver_.SetQueueVector(0, 1), 1);
  machine_.kernel.FailRequest("KVM_IRQFD", ENOMEM);
  driver_.Unmask(1);
  std::string problem;
  for (const WiringReport& row : function_->DescribeWiring()) {
    if (row.what == "msix 1") problem = row.problem;
  }
  EXPECT_THAT(problem, testing::HasSubstr("KVM_IRQFD"));
  device_.UseBuffers(0);
  driver_.Mask(1);
  driver_.Unmask(1);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
}

// ---- INTx ----

TEST_F(VirtioPciInterruptTest, WithoutMsixTheLineIsRaisedUntilIsrIsRead) {
  BringUpWithoutMsix();
  device_.UseBuffers(0);
  machine_.loop.Pump();
  EXPECT_TRUE(LineHigh());
  EXPECT_EQ(driver_.Config(6, 2) & 8u, 8u);
  device_.ChangeConfig();
  machine_.loop.Pump();
  EXPECT_EQ(driver_.Isr(), Intx::kIsrQueue | Intx::kIsrConfig);
  EXPECT_FALSE(LineHigh());
  EXPECT_EQ(driver_.Config(6, 2) & 8u, 0u);
  EXPECT_EQ(driver_.Isr(), 0);
  EXPECT_EQ(machine_.rises[kIntxGsi], 1);
}

TEST_F(VirtioPciInterruptTest, AConfigChangeThatWasReadEarlyRaisesNothing) {
  BringUpWithoutMsix();
  device_.ChangeConfig();
  EXPECT_EQ(driver_.Isr(), Intx::kIsrConfig);  // before the event loop came to it
  machine_.loop.Pump();
  EXPECT_FALSE(LineHigh());
}

TEST_F(VirtioPciInterruptTest, InterruptDisableHoldsTheLineDownAndKeepsTheCondition) {
  BringUpWithoutMsix();
  driver_.SetCommand(kMemoryAndMaster | 0x400);
  device_.UseBuffers(0);
  machine_.loop.Pump();
  EXPECT_FALSE(LineHigh());
  EXPECT_EQ(driver_.Config(6, 2) & 8u, 8u);
  driver_.SetCommand(kMemoryAndMaster);
  EXPECT_TRUE(LineHigh());
}

TEST_F(VirtioPciInterruptTest, ADeviceResetLowersTheLine) {
  BringUpWithoutMsix();
  device_.UseBuffers(0);
  machine_.loop.Pump();
  driver_.SetStatus(0);
  EXPECT_FALSE(LineHigh());
  EXPECT_EQ(driver_.Isr(), 0);
  EXPECT_EQ(machine_.loop.watches(), 0u);
}

TEST_F(VirtioPciInterruptTest, TurningMsixOnLowersTheLineAndNoSignalIsLost) {
  BringUpWithoutMsix();
  device_.UseBuffers(0);
  machine_.loop.Pump();
  device_.UseBuffers(1);  // not seen by the loop yet
  SetUpMsix();
  EXPECT_FALSE(LineHigh());
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x42));
}

TEST_F(VirtioPciInterruptTest, TurningMsixOffGoesBackToTheLineWithoutOldConditions) {
  BringUp();
  device_.ChangeConfig();  // sets the ISR bit, which nobody reads
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x40));
  driver_.SetMsixControl(0);
  machine_.loop.Pump();
  EXPECT_FALSE(LineHigh());
  device_.UseBuffers(0);
  machine_.loop.Pump();
  EXPECT_TRUE(LineHigh());
  driver_.Isr();
  EXPECT_FALSE(LineHigh());
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The function as a guest finds it: header, BARs, structures, notification, and accesses that no
// driver makes.
#include "vhost/transport/virtio_pci_fixture.h"

namespace vhost {
namespace {

using fakes::PciDriver;
using testing::ElementsAre;
using testing::IsEmpty;

class VirtioPciTest : public VirtioPciFixture {
 protected:
  using VirtioPciFixture::VirtioPciFixture;
};

TEST_F(VirtioPciTest, ADriverFindsAModernNetworkDevice) {
  EXPECT_EQ(driver_.Config(0), 0x1041'1af4u);
  EXPECT_EQ(driver_.Config(8), 0x020000'01u);
  EXPECT_GE(driver_.Config(0x2e, 2), 0x40u);
  EXPECT_EQ(driver_.Config(0x3d, 1), 1u);
  EXPECT_EQ(driver_.Config(0x0e, 1), 0u);
  EXPECT_EQ(driver_.Config(0x100), 0xffff'ffffu);
  ASSERT_TRUE(driver_.WalkCapabilities());
  for (uint8_t type : {1, 2, 3, 4, 5}) EXPECT_TRUE(driver_.structures.contains(type)) << +type;
  EXPECT_EQ(driver_.VectorCount(), 4);  // three queues and the configuration
  EXPECT_EQ(driver_.Common(0x12, 2), 3u);
}

TEST_F(VirtioPciTest, BarsAreSizedAndHoldTheStructures) {
  ASSERT_TRUE(driver_.WalkCapabilities());
  const auto bars = driver_.SizeBars();
  ASSERT_EQ(bars.size(), 2u);
  EXPECT_EQ(bars.at(1).size, 0x1000u);
  EXPECT_FALSE(bars.at(1).is_64bit);
  EXPECT_EQ(bars.at(4).size, 0x4000u);
  EXPECT_TRUE(bars.at(4).is_64bit);
  for (const auto& [type, structure] : driver_.structures) {
    if (type == 5) continue;
    EXPECT_LE(structure.offset + structure.length, bars.at(structure.bar).size) << +type;
  }
}

TEST_F(VirtioPciTest, FeaturesGoByWordsUpToTheFourth) {
  Enumerate();
  EXPECT_EQ(driver_.Features(), device_.offered().low());
  driver_.SetCommon(0, 2, 4);
  EXPECT_EQ(driver_.Common(4, 4), 5u);
  driver_.SetCommon(0, 4, 4);
  EXPECT_EQ(driver_.Common(4, 4), 0u);
  driver_.AcceptFeatures(uint64_t{1} << 32 | 0x20);
  EXPECT_EQ(device_.acked().low(), uint64_t{1} << 32 | 0x20);
  driver_.SetCommon(8, 77, 4);
  driver_.SetCommon(0xc, 0xffff'ffff, 4);
  EXPECT_EQ(device_.acked().high(), 0u);
}

TEST_F(VirtioPciTest, AQueueIsSetUpByHalves) {
  Enumerate();
  driver_.Select(1);
  EXPECT_EQ(driver_.Common(0x18, 2), fakes::FakeDevice::kMaxSize);
  driver_.SetUpQueue(1, 64, 0x1'2345'6000, 0x2'0000'0010, 0x3'0000'0020);
  const VringSetup setup = device_.queue_setup(1);
  EXPECT_EQ(setup.size, 64);
  EXPECT_EQ(Value(setup.desc), 0x1'2345'6000u);
  EXPECT_EQ(Value(setup.driver), 0x2'0000'0010u);
  EXPECT_EQ(Value(setup.device), 0x3'0000'0020u);
  EXPECT_TRUE(device_.queue_enabled(1));
  EXPECT_EQ(driver_.Common(0x1c, 2), 1u);
  EXPECT_EQ(driver_.Common(0x24, 4), 1u);
  EXPECT_EQ(driver_.Common(0x20, 8), 0x1'2345'6000u);  // as one access of 64 bits, too
}

TEST_F(VirtioPciTest, NotificationsDoNotLeaveTheKernel) {
  Enumerate();
  for (uint16_t queue = 0; queue < 3; ++queue) {
    EXPECT_TRUE(machine_.vm().GuestWrite(kBar + driver_.NotifyOffset(queue), 2, queue));
    EXPECT_TRUE(device_.Kicked(queue));
  }
  EXPECT_EQ(machine_.vm().ioeventfds().size(), 3u);
  for (const auto& ioeventfd : machine_.vm().ioeventfds()) EXPECT_EQ(ioeventfd.length, 0u);
}

TEST_F(VirtioPciTest, ANotificationThatComesAsAnExitIsServedAndCounted) {
  machine_.kernel.FailRequest("KVM_IOEVENTFD", EMFILE);
  Enumerate();
  const uint64_t at = driver_.NotifyOffset(0);
  EXPECT_FALSE(machine_.vm().GuestWrite(kBar + at, 2, 0));
  driver_.SetBar(4, at, 0, 2);
  EXPECT_TRUE(device_.Kicked(0));
  const std::vector<WiringReport> rows = function_->DescribeWiring();
  EXPECT_EQ(rows[0].what, "notify 0");
  EXPECT_EQ(rows[0].how, "exit");
  EXPECT_EQ(rows[0].exits, 1u);
  EXPECT_THAT(rows[0].problem, testing::HasSubstr("EMFILE"));
  EXPECT_EQ(rows[1].how, "ioeventfd");
  EXPECT_EQ(rows[1].exits, 0u);
}

TEST_F(VirtioPciTest, SizingAndDecodeTogglesMoveNothing) {
  Enumerate();
  machine_.kernel.ClearCalls();
  driver_.SizeBars();
  driver_.SetCommand(0);
  driver_.SetCommand(kMemoryAndMaster);
  // Some guests size with decoding on.
  driver_.SetConfig(0x20, 0xffff'ffff);
  driver_.SetConfig(0x24, 0xffff'ffff);
  driver_.SetConfig(0x20, static_cast<uint32_t>(kBar));
  driver_.SetConfig(0x24, 0);
  EXPECT_EQ(Requests("KVM_IOEVENTFD"), 0);
  EXPECT_TRUE(machine_.vm().GuestWrite(kBar + driver_.NotifyOffset(1), 2, 1));
}

TEST_F(VirtioPciTest, ABarThatMovesTakesItsNotifyRegistersAlong) {
  Enumerate();
  constexpr uint64_t kElsewhere = 0x2'0000'0000;
  driver_.SetCommand(0);
  driver_.PlaceBar(4, kElsewhere, true);
  // Before it is decoded there, and somebody else may be at the old place.
  EXPECT_THAT(machine_.vm().ioeventfds(), IsEmpty());
  driver_.SetCommand(kMemoryAndMaster);
  EXPECT_FALSE(machine_.vm().GuestWrite(kBar + driver_.NotifyOffset(0), 2, 0));
  EXPECT_TRUE(machine_.vm().GuestWrite(kElsewhere + driver_.NotifyOffset(0), 2, 0));
}

TEST_F(VirtioPciTest, TheBarListenerFollowsDecodingAndMoves) {
  std::vector<std::string> told;
  function_->SetBarListener([&told](const PciBar& bar) {
    told.push_back(bar.decoded ? absl::StrFormat("%d at %#x", bar.index, *bar.address)
                               : absl::StrFormat("%d off", bar.index));
  });
  Enumerate();
  EXPECT_THAT(told, ElementsAre("1 at 0xc0000000", "4 at 0xc0100000"));
  told.clear();
  driver_.SetConfig(0x20, 0xffff'ffff);  // being sized with decoding on
  EXPECT_THAT(told, IsEmpty());
  driver_.SetConfig(0x20, 0xc020'0000);
  EXPECT_THAT(told, ElementsAre("4 at 0xc0200000"));
  told.clear();
  driver_.SetCommand(0);
  EXPECT_THAT(told, ElementsAre("1 off", "4 off"));
  driver_.PlaceBar(1, 0xc001'0000, false);
  EXPECT_THAT(told, ElementsAre("1 off", "4 off"));
}

TEST_F(VirtioPciTest, AVmmMayPlaceBarsAndTheyStayOverAReset) {
  EXPECT_TRUE(function_->PlaceBar(4, kBar).ok());
  EXPECT_TRUE(function_->PlaceBar(1, 0xc000'0000).ok());
  EXPECT_FALSE(function_->PlaceBar(4, kBar + 0x1000).ok());
  EXPECT_FALSE(function_->PlaceBar(1, 0x1'0000'0000).ok());
  EXPECT_FALSE(function_->PlaceBar(2, kBar).ok());
  driver_.SetCommand(kMemoryAndMaster);
  ASSERT_TRUE(driver_.WalkCapabilities());
  SetUpMsix();
  driver_.SetStatus(kDriverOk);
  machine_.kernel.ClearCalls();
  function_->Reset();
  EXPECT_EQ(Requests("KVM_IOEVENTFD"), 0);
  EXPECT_EQ(device_.resets(), 1);
  EXPECT_EQ(driver_.Config(4, 2), 0u);
  EXPECT_EQ(driver_.Config(0x20), static_cast<uint32_t>(kBar) | 0xc);
  EXPECT_THAT(machine_.vm().irqfds(), IsEmpty());
  driver_.SetCommand(kMemoryAndMaster);
  EXPECT_EQ(Requests("KVM_IOEVENTFD"), 0);
  EXPECT_TRUE(machine_.vm().GuestWrite(kBar + driver_.NotifyOffset(0), 2, 0));
}

TEST_F(VirtioPciTest, DestroyingItUndoesAllWiring) {
  BringUp();
  EXPECT_EQ(device_.transport(), "virtio-pci 00:01.0");
  function_.reset();
  EXPECT_EQ(device_.interrupter(), nullptr);
  EXPECT_THAT(machine_.vm().ioeventfds(), IsEmpty());
  EXPECT_THAT(machine_.vm().irqfds(), IsEmpty());
  EXPECT_EQ(machine_.loop.watches(), 0u);
}

// ---- The window, and accesses that no driver makes ----

TEST_F(VirtioPciTest, TheWindowReachesTheStructures) {
  Enumerate();
  const uint8_t window = driver_.structures[5].at;
  driver_.SetConfig(window + 4u, 4, 1);
  driver_.SetConfig(window + 8u, 0x14);
  driver_.SetConfig(window + 12u, 1);
  driver_.SetConfig(window + 16u, kDriverOk, 1);
  EXPECT_EQ(device_.status(), kDriverOk);
  EXPECT_EQ(driver_.Config(window + 16u, 1), kDriverOk);
  driver_.SetConfig(window + 8u, 0x2000);
  driver_.SetConfig(window + 12u, 4);
  EXPECT_EQ(driver_.Config(window + 16u), 0x04030201u);
  driver_.SetConfig(window + 8u, 0x3004);
  driver_.SetConfig(window + 12u, 2);
  driver_.SetConfig(window + 16u, 1, 2);
  EXPECT_TRUE(device_.Kicked(1));
}

TEST_F(VirtioPciTest, ADumpOfConfigurationSpaceHasNoEffect) {
  BringUpWithoutMsix();
  device_.UseBuffers(0);
  machine_.loop.Pump();
  for (uint32_t offset = 0; offset < 256; ++offset) driver_.Config(offset, 1);
  EXPECT_TRUE(LineHigh());
  EXPECT_EQ(device_.status(), kDriverOk);
}

TEST_F(VirtioPciTest, TheWindowRefusesLengthsAndOffsetsThatMayNotBe) {
  Enumerate();
  const uint8_t window = driver_.structures[5].at;
  for (const auto& [offset, length] : std::vector<std::pair<uint32_t, uint32_t>>{
           {0x14, 0}, {0x14, 3}, {0x14, 8}, {0x15, 4}, {0x14, 0xffff'ffff}, {0xffff'ffff, 1}}) {
    driver_.SetConfig(window + 4u, 4, 1);
    driver_.SetConfig(window + 8u, offset);
    driver_.SetConfig(window + 12u, length);
    driver_.SetConfig(window + 16u, kDriverOk);
    driver_.Config(window + 16u);
    EXPECT_EQ(device_.status(), 0) << offset << " " << length;
  }
}

TEST_F(VirtioPciTest, QueuesThatDoNotExistReadAsNothing) {
  Enumerate();
  for (uint16_t queue : {3, 4, 0x7fff, 0xffff}) {
    driver_.SetUpQueue(queue, 64, 0x1000, 0x2000, 0x3000);
    EXPECT_EQ(driver_.Common(0x18, 2), 0u);
    EXPECT_EQ(driver_.Common(0x1c, 2), 0u);
    EXPECT_EQ(driver_.Common(0x20, 8), 0u);
    EXPECT_EQ(driver_.Common(0x1a, 2), kNoVector);
  }
}

TEST_F(VirtioPciTest, OddAccessesAnywhereDoNoHarm) {
  BringUp();
  for (int bar : {0, 1, 2, 4, 5, 6, -1, 255}) {
    for (uint64_t offset :
         {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{0x13}, uint64_t{0x3b}, uint64_t{0x40},
          uint64_t{0x7fe}, uint64_t{0x800}, uint64_t{0xffd}, uint64_t{0x1001}, uint64_t{0x1fff},
          uint64_t{0x2ffc}, uint64_t{0x3001}, uint64_t{0x300c}, uint64_t{0x3fff}, uint64_t{0x4000},
          ~uint64_t{0}, ~uint64_t{0} - 3}) {
      for (size_t size : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
        driver_.SetBar(bar, offset, ~uint64_t{0}, size);
        driver_.Bar(bar, offset, size);
      }
      function_->BarRead(bar, offset, {});
      function_->BarWrite(bar, offset, {});
    }
  }
  for (uint32_t offset = 0; offset < 0x104; ++offset) {
    for (size_t size : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
      driver_.SetConfig(offset, 0xffff'ffff, size);
      driver_.Config(offset, size);
    }
  }
  driver_.SetConfig(0xffff'ffff, 1);
  driver_.Config(0xffff'fffe);
  // And it still works.
  function_->Reset();
  machine_.TakeMessages();
  BringUp();
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), ElementsAre(0x41));
}

// ---- Other shapes ----

class VirtioPciWithoutMsixTest : public VirtioPciTest {
 protected:
  VirtioPciWithoutMsixTest()
      : VirtioPciTest({.location = "00:01.0", .intx_gsi = kIntxGsi, .vectors = 0}) {}
};

TEST_F(VirtioPciWithoutMsixTest, AFunctionWithoutVectorsHasNoMsixAndUsesTheLine) {
  ASSERT_TRUE(driver_.WalkCapabilities());
  EXPECT_EQ(driver_.msix_at, 0);
  EXPECT_EQ(driver_.SizeBars().size(), 1u);
  Enumerate();
  driver_.SetStatus(kDriverOk);
  EXPECT_EQ(driver_.SetQueueVector(0, 0), kNoVector);
  device_.UseBuffers(1);
  machine_.loop.Pump();
  EXPECT_TRUE(LineHigh());
}

TEST(VirtioPciShapesTest, ManyVectorsNeedALargerBar) {
  fakes::WiredMachine machine;
  fakes::FakeDevice device(machine.kernel, 4);
  EXPECT_FALSE(VirtioPci::Create(machine.kernel, device, *machine.wiring, machine.loop,
                                 {.location = "a", .vectors = 2049})
                   .ok());
  auto function = VirtioPci::Create(machine.kernel, device, *machine.wiring, machine.loop,
                                    {.location = "a", .vectors = 2048});
  ASSERT_TRUE(function.ok());
  PciDriver driver(**function);
  ASSERT_TRUE(driver.WalkCapabilities());
  EXPECT_EQ(driver.VectorCount(), 2048);
  EXPECT_EQ(driver.SizeBars().at(1).size, 0x10000u);
  EXPECT_EQ(driver.Config(driver.msix_at + 8u) & ~7u, 0x8000u);
  EXPECT_EQ(driver.Config(0x3d, 1), 0u);  // no line was given: no pin
}
}  // namespace
}  // namespace vhost

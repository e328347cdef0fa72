// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Functions with a legacy interface, alone or beside the modern one, as old and new drivers find
// them, and accesses that no driver makes.
#include <random>

#include "kernel-abi/virtio.h"
#include "vhost/transport/legacy.h"
#include "vhost/transport/virtio_pci_fixture.h"

namespace vhost {
namespace {

using testing::HasSubstr;

constexpr uint16_t kPorts = 0xc040;
constexpr uint16_t kPortsMemoryAndMaster = 0x7;
constexpr uint64_t kNotifyPort = kPorts + 16;
constexpr uint8_t kFound = device_status::kAcknowledge | device_status::kDriver;
constexpr uint8_t kReady = kFound | device_status::kDriverOk;

class LegacyFixture : public VirtioPciFixture {
 protected:
  explicit LegacyFixture(VirtioPciForm form)
      : VirtioPciFixture({.form = form, .location = "00:01.0", .intx_gsi = kIntxGsi}) {}

  void EnumeratePorts() {
    driver_.WalkCapabilities();
    driver_.PlaceBar(0, kPorts, false);
    driver_.PlaceBar(1, 0xc000'0000, false);
    if (driver_.structures.contains(1)) driver_.PlaceBar(4, kBar, true);
    driver_.SetCommand(kPortsMemoryAndMaster);
  }
  void SetStatus(uint8_t status) { driver_.SetLegacy(18, status, 1); }
  bool NotifyByPort(uint16_t queue) {
    return machine_.vm().GuestWrite(kNotifyPort, 2, queue, true);
  }
};

class TransitionalTest : public LegacyFixture {
 protected:
  TransitionalTest() : LegacyFixture(VirtioPciForm::kTransitional) {}
};

class LegacyOnlyTest : public LegacyFixture {
 protected:
  LegacyOnlyTest() : LegacyFixture(VirtioPciForm::kLegacy) {}
};

TEST_F(TransitionalTest, HasTheIdentityThatLegacyDriversMatch) {
  EXPECT_EQ(driver_.Config(0), 0x1000'1af4u);
  EXPECT_EQ(driver_.Config(8, 1), 0u);     // revision
  EXPECT_EQ(driver_.Config(0x2e, 2), 1u);  // subsystem: the type
  ASSERT_TRUE(driver_.WalkCapabilities());
  for (uint8_t type : {1, 2, 3, 4, 5}) EXPECT_TRUE(driver_.structures.contains(type)) << +type;
  EXPECT_EQ(device_.transport(), "virtio-pci 00:01.0 (transitional)");
  const auto bars = driver_.SizeBars();
  ASSERT_EQ(bars.size(), 3u);
  EXPECT_TRUE(bars.at(0).is_io);
  EXPECT_EQ(bars.at(0).size, 64u);  // 24 bytes of registers and 24 of configuration
  EXPECT_TRUE(bars.at(4).is_64bit);
}

TEST_F(LegacyOnlyTest, HasNothingOfTheModernInterface) {
  EXPECT_EQ(driver_.Config(0), 0x1000'1af4u);
  driver_.WalkCapabilities();
  EXPECT_TRUE(driver_.structures.empty());
  EXPECT_NE(driver_.msix_at, 0);
  const auto bars = driver_.SizeBars();
  ASSERT_EQ(bars.size(), 2u);
  EXPECT_TRUE(bars.at(0).is_io);
  EXPECT_EQ(bars.at(1).size, 0x1000u);
  EnumeratePorts();
  driver_.SetBar(4, 0x14, 0xf, 1);  // where the modern status would be
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(driver_.Bar(4, 0x12, 2), 0u);
  EXPECT_EQ(device_.transport(), "virtio-pci 00:01.0 (legacy)");
}

TEST(LegacyTransport, OnlyOldTypesHaveIt) {
  EXPECT_EQ(TransitionalPciId(DeviceId::kNet), 0x1000);
  EXPECT_EQ(TransitionalPciId(DeviceId::kBlock), 0x1001);
  EXPECT_EQ(TransitionalPciId(DeviceId::kScsi), 0x1004);
  EXPECT_EQ(TransitionalPciId(DeviceId::kRng), 0x1005);
  fakes::WiredMachine machine;
  fakes::FakeDevice device{machine.kernel};
  device.set_device_id(DeviceId::kVsock);
  for (const VirtioPciForm form : {VirtioPciForm::kTransitional, VirtioPciForm::kLegacy}) {
    const auto function = VirtioPci::Create(machine.kernel, device, *machine.wiring, machine.loop,
                                            {.form = form, .location = "00:01.0"});
    EXPECT_THAT(std::string(function.status().message()),
                HasSubstr("net0: vsock devices have no legacy interface"));
  }
}

TEST_F(TransitionalTest, ALegacyDriverBringsItUp) {
  EnumeratePorts();
  SetStatus(0);
  SetStatus(kFound);
  EXPECT_EQ(driver_.Legacy(0, 4), device_.offered().low() & 0xffff'ffff);
  driver_.SetLegacy(4, 0x8020, 4);
  EXPECT_EQ(driver_.Legacy(4, 4), 0x8020u);
  EXPECT_EQ(device_.acked().low(), 0x8020u);
  for (uint16_t queue = 0; queue < 3; ++queue) {
    driver_.SetLegacy(14, queue, 2);
    EXPECT_EQ(driver_.Legacy(12, 2), fakes::FakeDevice::kMaxSize);
    EXPECT_EQ(driver_.Legacy(8, 4), 0u);
    driver_.SetUpLegacyQueue(queue, 0x12340u + 8 * queue);
    EXPECT_EQ(driver_.Legacy(8, 4), 0x12340u + 8 * queue);
  }
  SetStatus(kReady);
  EXPECT_TRUE(device_.is_legacy());
  EXPECT_EQ(driver_.Legacy(18, 1), kReady);
  // 256 entries: 4096 bytes of descriptors, 518 of the available ring, and the next page.
  const VringSetup setup = device_.queue_setup(1);
  EXPECT_EQ(setup.size, 256);
  EXPECT_EQ(Value(setup.desc), 0x1234'8000u);
  EXPECT_EQ(Value(setup.driver), 0x1234'9000u);
  EXPECT_EQ(Value(setup.device), 0x1234'a000u);
  driver_.SetUpLegacyQueue(1, 0);
  EXPECT_FALSE(device_.queue_enabled(1));
  EXPECT_EQ(driver_.Legacy(8, 4), 0u);
  SetStatus(0);
  EXPECT_FALSE(device_.is_legacy());
  EXPECT_EQ(driver_.Legacy(14, 2), 0u);  // the selector
}

TEST_F(TransitionalTest, AModernDriverBringsItUpAsEver) {
  EnumeratePorts();
  driver_.SetStatus(0);
  SetUpMsix();
  driver_.SetUpQueue(1, 64, 0x1000, 0x2000, 0x3000);
  driver_.SetStatus(kDriverOk);
  EXPECT_FALSE(device_.is_legacy());
  EXPECT_TRUE(machine_.vm().GuestWrite(kBar + driver_.NotifyOffset(1), 2, 1));
  EXPECT_TRUE(device_.Kicked(1));
  device_.UseBuffers(0);
  EXPECT_THAT(machine_.TakeMessages(), testing::ElementsAre(0x41u));
}

TEST_F(TransitionalTest, NotificationsByThePortDoNotLeaveTheKernel) {
  EnumeratePorts();
  for (uint16_t queue = 0; queue < 3; ++queue) {
    EXPECT_TRUE(NotifyByPort(queue));
    EXPECT_TRUE(device_.Kicked(queue));
  }
  EXPECT_FALSE(NotifyByPort(3));
  driver_.SetLegacy(16, 2, 2);  // comes as an exit
  EXPECT_TRUE(device_.Kicked(2));
  driver_.SetLegacy(16, 1, 4);  // covers the status, too, as a write of 4 bytes
  EXPECT_TRUE(device_.Kicked(1));
  driver_.SetLegacy(16, 77, 2);
  const auto rows = function_->DescribeWiring();
  const auto row = std::ranges::find(rows, "legacy notify 2", &WiringReport::what);
  ASSERT_NE(row, rows.end());
  EXPECT_EQ(row->how, "ioeventfd");
  EXPECT_EQ(row->address, kNotifyPort);
  EXPECT_EQ(row->data, 2u);
  EXPECT_EQ(row->exits, 1u);
  // They follow the BAR.
  driver_.PlaceBar(0, 0xd000, false);
  EXPECT_FALSE(NotifyByPort(0));
  EXPECT_TRUE(machine_.vm().GuestWrite(0xd010, 2, 0, true));
}

TEST_F(TransitionalTest, TheConfigurationMovesWhenMsixIsOn) {
  EnumeratePorts();
  EXPECT_EQ(driver_.Legacy(20, 2), 0x0201u);
  EXPECT_EQ(driver_.Legacy(18, 4), 0x0201'0000u);  // status, ISR, then the configuration
  driver_.EnableMsix();
  EXPECT_EQ(driver_.Legacy(20, 4), 0xffff'ffffu);  // vectors
  EXPECT_EQ(driver_.Legacy(24, 4), 0x0403'0201u);
  driver_.SetLegacy(24 + 5, 0x99, 1);
  EXPECT_EQ(device_.config()[5], std::byte{0x99});
  driver_.SetLegacy(22, 0x0001'0002, 4);  // a queue's vector, and configuration behind it
  EXPECT_EQ(driver_.Legacy(22, 2), 2u);
  EXPECT_EQ(device_.config()[0], std::byte{1});
  EXPECT_EQ(driver_.Legacy(24 + 24, 8), 0u);  // behind its end
  driver_.SetMsixControl(0);
  EXPECT_EQ(driver_.Legacy(20 + 5, 1), 0x99u);
}

TEST_F(TransitionalTest, InterruptsByMsixAndByTheLine) {
  EnumeratePorts();
  driver_.EnableMsix();
  for (uint16_t vector = 0; vector < 2; ++vector) {
    driver_.SetMessage(vector, fakes::PciDriver::kMsiAddress, 0x40u + vector);
    driver_.Unmask(vector);
  }
  driver_.SetLegacy(20, 0, 2);
  EXPECT_EQ(driver_.Legacy(20, 2), 0u);
  EXPECT_EQ(driver_.SetLegacyQueueVector(0, 1), 1u);
  EXPECT_EQ(driver_.SetLegacyQueueVector(1, 0x7ff), 0xffffu);  // there is none
  EXPECT_EQ(driver_.SetLegacyQueueVector(9, 1), 0xffffu);
  SetStatus(kReady);
  device_.UseBuffers(0);
  device_.ChangeConfig();
  EXPECT_THAT(machine_.TakeMessages(), testing::UnorderedElementsAre(0x41u, 0x40u));

  SetStatus(0);
  driver_.SetMsixControl(0);
  SetStatus(kReady);
  device_.UseBuffers(1);
  machine_.loop.Pump();
  EXPECT_TRUE(LineHigh());
  EXPECT_EQ(driver_.Legacy(19, 1), 1u);
  EXPECT_FALSE(LineHigh());
  EXPECT_EQ(driver_.Legacy(19, 1), 0u);
}

TEST_F(LegacyOnlyTest, SurvivesAnyAccess) {
  EnumeratePorts();
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t offset = random() % 80;
    const size_t size = size_t{1} << random() % 4;
    switch (random() % 8) {
      case 0:
        driver_.SetConfig(4 + random() % 0x60, static_cast<uint32_t>(random()), 4);
        break;
      case 1:
        driver_.Config(random() % 260, size);
        break;
      case 2:
        driver_.Legacy(offset, size);
        break;
      case 3:
        driver_.SetBar(static_cast<int>(random() % 6), random() % 0x8000, random(), size);
        break;
      default:
        driver_.SetLegacy(offset, random() % 3 == 0 ? random() : random() % 4, size);
    }
  }
  function_->Reset();
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(driver_.Config(0), 0x1000'1af4u);
}

TEST(LegacyVringTest, TheUsedRingIsAtTheNextMultiple) {
  const VringSetup small = LegacyVring(0x1000, 4, 4);
  EXPECT_EQ(Value(small.driver), 0x1040u);
  EXPECT_EQ(Value(small.device), 0x1050u);  // 14 bytes of the available ring
  EXPECT_EQ(Value(LegacyVring(0x1000, 4, 0).device), 0x104eu);
  EXPECT_EQ(Value(LegacyVring(0x1000, 4, 3).device) % 3, 0u);
  // The largest that registers can ask for does not wrap.
  const VringSetup large = LegacyVring(uint64_t{0xffff'ffff} * 0xffff'ffff, 0xffff, 0xffff'ffff);
  EXPECT_LT(Value(large.desc), Value(large.driver));
  EXPECT_LT(Value(large.driver), Value(large.device));
}

}  // namespace
}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/transport/virtio_mmio.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernel-abi/virtio.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/wired_machine.h"
#include "vhost/transport/register_map.h"

namespace vhost {
namespace {

namespace abi = kernel_abi;

constexpr uint64_t kAddress = 0xfe00'0000;
constexpr uint32_t kGsi = 20;
constexpr uint8_t kDriverOk = 0xf;

class VirtioMmioTest : public testing::Test {
 protected:
  explicit VirtioMmioTest(bool can_share = true) {
    device_.set_can_share(can_share);
    auto transport = VirtioMmio::Create(machine_.kernel, device_, *machine_.wiring, machine_.loop,
                                        {.address = kAddress, .gsi = kGsi});
    EXPECT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
  }
  uint64_t Get(uint64_t offset, size_t size = 4) {
    std::array<std::byte, 8> bytes;
    bytes.fill(std::byte{0xee});
    transport_->Read(offset, std::span(bytes).first(size));
    return LoadLittleEndian(std::span(bytes).first(size));
  }
  void Set(uint64_t offset, uint64_t value, size_t size = 4) {
    std::array<std::byte, 8> bytes;
    StoreLittleEndian(bytes, value);
    transport_->Write(offset, std::span(bytes).first(size));
  }
  // vm_setup_vq()
  void SetUpQueue(uint32_t queue) {
    Set(abi::kMmioQueueSel, queue);
    Set(abi::kMmioQueueSize, 64);
    Set(abi::kMmioQueueDescLow, 0x1000);
    Set(abi::kMmioQueueDescHigh, 0x1);
    Set(abi::kMmioQueueDriverLow, 0x2000);
    Set(abi::kMmioQueueDriverHigh, 0x2);
    Set(abi::kMmioQueueDeviceLow, 0x3000);
    Set(abi::kMmioQueueDeviceHigh, 0x3);
    Set(abi::kMmioQueueReady, 1);
  }
  void BringUp() {
    Set(abi::kMmioStatus, 0);
    SetUpQueue(0);
    SetUpQueue(1);
    Set(abi::kMmioStatus, kDriverOk);
  }
  size_t Interrupts() { return machine_.vm().TakeInterrupts().size(); }

  fakes::WiredMachine machine_;
  fakes::FakeDevice device_{machine_.kernel};
  std::unique_ptr<VirtioMmio> transport_;
};

TEST_F(VirtioMmioTest, ADriverFindsAVersion2Device) {
  EXPECT_EQ(Get(abi::kMmioMagicValue), 0x74726976u);
  EXPECT_EQ(Get(abi::kMmioVersion), 2u);
  EXPECT_EQ(Get(abi::kMmioDeviceId), 1u);
  EXPECT_EQ(Get(abi::kMmioVendorId), 0x1af4u);
  EXPECT_EQ(device_.transport(), "virtio-mmio 0xfe000000");
}

TEST_F(VirtioMmioTest, FeaturesGoByWords) {
  for (const auto& [word, bits] :
       std::vector<std::pair<uint32_t, uint64_t>>{{0, device_.offered().low() & 0xffff'ffff},
                                                  {1, device_.offered().low() >> 32},
                                                  {2, 5},
                                                  {3, 0},
                                                  {4, 0},
                                                  {0xffff'ffff, 0}}) {
    Set(abi::kMmioDeviceFeaturesSel, word);
    EXPECT_EQ(Get(abi::kMmioDeviceFeatures), bits) << word;
  }
  Set(abi::kMmioDriverFeaturesSel, 1);
  Set(abi::kMmioDriverFeatures, 1);
  Set(abi::kMmioDriverFeaturesSel, 4);
  Set(abi::kMmioDriverFeatures, 0xffff'ffff);
  EXPECT_EQ(device_.acked().low(), uint64_t{1} << 32);
  EXPECT_EQ(device_.acked().high(), 0u);
}

TEST_F(VirtioMmioTest, AQueueIsSetUpByHalves) {
  Set(abi::kMmioQueueSel, 1);
  EXPECT_EQ(Get(abi::kMmioQueueSizeMax), fakes::FakeDevice::kMaxSize);
  EXPECT_EQ(Get(abi::kMmioQueueReady), 0u);
  SetUpQueue(1);
  const VringSetup setup = device_.queue_setup(1);
  EXPECT_EQ(setup.size, 64);
  EXPECT_EQ(Value(setup.desc), 0x1'0000'1000u);
  EXPECT_EQ(Value(setup.driver), 0x2'0000'2000u);
  EXPECT_EQ(Value(setup.device), 0x3'0000'3000u);
  EXPECT_EQ(Get(abi::kMmioQueueReady), 1u);
}

TEST_F(VirtioMmioTest, ASizeBeyond16BitsStaysASizeThatIsRefused) {
  Set(abi::kMmioQueueSel, 0);
  Set(abi::kMmioQueueSize, 0x10000);
  EXPECT_EQ(device_.queue_setup(0).size, 0xffff);
}

TEST_F(VirtioMmioTest, WritingQueueReady0TakesTheQueueBack) {
  BringUp();
  Set(abi::kMmioQueueSel, 1);
  Set(abi::kMmioQueueReady, 0);
  EXPECT_EQ(Get(abi::kMmioQueueReady), 0u);
  EXPECT_TRUE(device_.queue_enabled(0));
}

TEST_F(VirtioMmioTest, AQueueIsResetWhereThatWasNegotiated) {
  BringUp();
  Set(abi::kMmioQueueSel, 1);
  Set(abi::kMmioQueueReset, 1);
  EXPECT_EQ(Get(abi::kMmioQueueReady), 1u);
  Set(abi::kMmioDriverFeaturesSel, 1);
  Set(abi::kMmioDriverFeatures, 1 | 1 << 8);
  Set(abi::kMmioQueueReset, 1);
  EXPECT_EQ(Get(abi::kMmioQueueReset), 0u);
  EXPECT_EQ(Get(abi::kMmioQueueReady), 0u);
}

TEST_F(VirtioMmioTest, NotificationsDoNotLeaveTheKernel) {
  for (int queue = 0; queue < 3; ++queue) {
    EXPECT_TRUE(machine_.vm().GuestWrite(kAddress + abi::kMmioQueueNotify, 4,
                                         static_cast<uint64_t>(queue)));
    for (int other = 0; other < 3; ++other) EXPECT_EQ(device_.Kicked(other), other == queue);
  }
  EXPECT_FALSE(machine_.vm().GuestWrite(kAddress + abi::kMmioQueueNotify, 4, 3));
}

TEST_F(VirtioMmioTest, ANotificationThatComesAsAnExitIsServedAndCounted) {
  Set(abi::kMmioQueueNotify, 0x1234'0002);  // notification data in the upper half
  EXPECT_TRUE(device_.Kicked(2));
  Set(abi::kMmioQueueNotify, 3);
  Set(abi::kMmioQueueNotify, 1, 2);
  EXPECT_FALSE(device_.Kicked(1));
  EXPECT_EQ(transport_->DescribeWiring()[2].exits, 1u);
}

TEST_F(VirtioMmioTest, AllQueuesAndTheConfigurationInterruptByOneIrqfd) {
  BringUp();
  ASSERT_EQ(machine_.vm().irqfds().size(), 1u);
  EXPECT_EQ(machine_.vm().irqfds()[0].gsi, kGsi);
  device_.UseBuffers(0);
  EXPECT_EQ(Interrupts(), 1u);
  device_.UseBuffers(1);
  EXPECT_EQ(Interrupts(), 1u);
  device_.ChangeConfig();
  EXPECT_EQ(Interrupts(), 1u);
  EXPECT_EQ(machine_.loop.watches(), 0u);  // no thread has a part in it
  EXPECT_EQ(transport_->DescribeWiring().back().how, std::string("irqfd"));
}

TEST_F(VirtioMmioTest, TheUsedBufferBitIsSetWhileQueuesAreLive) {
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 0u);
  Set(abi::kMmioStatus, kDriverOk);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 0u);  // no queue is enabled
  BringUp();
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 1u);
  Set(abi::kMmioInterruptAck, 3);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 1u);  // the next interrupt may have come meanwhile
  Set(abi::kMmioStatus, 0);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 0u);
}

TEST_F(VirtioMmioTest, TheConfigurationBitStaysUntilItIsAcknowledged) {
  BringUp();
  device_.ChangeConfig();
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 3u);
  Set(abi::kMmioInterruptAck, 1);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 3u);
  Set(abi::kMmioInterruptAck, 2);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 1u);
  EXPECT_EQ(Get(abi::kMmioConfigGeneration), 1u);
}

TEST_F(VirtioMmioTest, ConfigurationSpaceTakesAccessesOfAnySize) {
  EXPECT_EQ(Get(abi::kMmioConfig, 1), 0x01u);
  EXPECT_EQ(Get(abi::kMmioConfig + 1, 2), 0x0302u);
  EXPECT_EQ(Get(abi::kMmioConfig, 8), 0x0807060504030201u);
  EXPECT_EQ(Get(abi::kMmioConfig + 0x800, 4), 0u);
  Set(abi::kMmioConfig + 3, 0xaa, 1);
  EXPECT_EQ(Get(abi::kMmioConfig, 4), 0xaa030201u);
}

TEST_F(VirtioMmioTest, ThereIsNoSharedMemory) {
  Set(abi::kMmioShmSel, 0);
  for (uint32_t offset :
       {abi::kMmioShmLenLow, abi::kMmioShmLenHigh, abi::kMmioShmBaseLow, abi::kMmioShmBaseHigh}) {
    EXPECT_EQ(Get(offset), 0xffff'ffffu);
  }
}

TEST_F(VirtioMmioTest, RegistersTakeAlignedWordsOnly) {
  for (uint64_t offset = 0; offset < 0x100; ++offset) {
    for (size_t size : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
      if (size == 4 && offset % 4 == 0) continue;
      EXPECT_EQ(Get(offset, size), 0u) << offset << " " << size;
      Set(offset, 0xff, size);
    }
  }
  EXPECT_EQ(device_.status(), 0);
  transport_->Read(abi::kMmioStatus, {});
  transport_->Write(abi::kMmioStatus, {});
  for (uint64_t offset : {uint64_t{0xffc}, uint64_t{0x1000}, ~uint64_t{3}}) Set(offset, 1, 4);
}

TEST_F(VirtioMmioTest, QueuesThatDoNotExistReadAsNothing) {
  for (uint32_t queue : {3u, 0x10000u, 0xffff'ffffu}) {
    SetUpQueue(queue);
    EXPECT_EQ(Get(abi::kMmioQueueSizeMax), 0u);
    EXPECT_EQ(Get(abi::kMmioQueueReady), 0u);
  }
}

TEST_F(VirtioMmioTest, AResetKeepsTheWiring) {
  BringUp();
  device_.ChangeConfig();
  machine_.kernel.ClearCalls();
  transport_->Reset();
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 0u);
  for (const fakes::LoggedCall& call : machine_.kernel.calls()) {
    EXPECT_NE(call.name, "KVM_IOEVENTFD");
    EXPECT_NE(call.name, "KVM_IRQFD");
  }
  transport_.reset();
  EXPECT_THAT(machine_.vm().ioeventfds(), testing::IsEmpty());
  EXPECT_THAT(machine_.vm().irqfds(), testing::IsEmpty());
}

TEST_F(VirtioMmioTest, APinThatIsTakenIsAnError) {
  auto second = VirtioMmio::Create(machine_.kernel, device_, *machine_.wiring, machine_.loop,
                                   {.address = kAddress + 0x1000, .gsi = kGsi});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

class VirtioMmioWithoutSharingTest : public VirtioMmioTest {
 protected:
  VirtioMmioWithoutSharingTest() : VirtioMmioTest(false) {}
};

TEST_F(VirtioMmioWithoutSharingTest, ARelayJoinsTheQueuesIntoTheOneIrqfd) {
  BringUp();
  EXPECT_EQ(machine_.vm().irqfds().size(), 1u);
  device_.UseBuffers(0);
  device_.UseBuffers(1);
  EXPECT_EQ(Interrupts(), 0u);
  machine_.loop.Pump();
  EXPECT_EQ(Interrupts(), 1u);
  device_.ChangeConfig();
  EXPECT_EQ(Interrupts(), 1u);
}

}  // namespace
}  // namespace vhost

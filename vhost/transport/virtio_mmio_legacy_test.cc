// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Version 1 of virtio-mmio, as drivers/virtio/virtio_mmio.c uses it, and as nobody does.
#include "vhost/transport/virtio_mmio_legacy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "kernel-abi/virtio.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/wired_machine.h"
#include "vhost/transport/register_map.h"
#include "vhost/transport/virtio_mmio.h"

namespace vhost {
namespace {

namespace abi = kernel_abi;
using testing::HasSubstr;

constexpr uint64_t kAddress = 0xfe00'0000;
constexpr uint8_t kFound = device_status::kAcknowledge | device_status::kDriver;
constexpr uint8_t kReady = kFound | device_status::kDriverOk;

class VirtioMmioLegacyTest : public testing::Test {
 protected:
  VirtioMmioLegacyTest() {
    auto transport = VirtioMmio::Create(machine_.kernel, device_, *machine_.wiring, machine_.loop,
                                        {.address = kAddress, .gsi = 20, .legacy = true});
    EXPECT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
  }
  uint64_t Get(uint64_t offset, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    transport_->Read(offset, std::span(bytes).first(size));
    return LoadLittleEndian(std::span(bytes).first(size));
  }
  void Set(uint64_t offset, uint64_t value, size_t size = 4) {
    std::array<std::byte, 8> bytes{};
    StoreLittleEndian(bytes, value);
    transport_->Write(offset, std::span(bytes).first(size));
  }
  // vm_setup_vq() of a version 1 device
  void SetUpQueue(uint32_t queue, uint32_t page, uint32_t size = 64) {
    Set(abi::kMmioQueueSel, queue);
    EXPECT_EQ(Get(abi::kMmioQueuePfn), 0u);
    Set(abi::kMmioQueueSize, size);
    Set(abi::kMmioQueueAlign, 0x1000);
    Set(abi::kMmioQueuePfn, page);
  }

  fakes::WiredMachine machine_;
  fakes::FakeDevice device_{machine_.kernel};
  std::unique_ptr<VirtioMmio> transport_;
};

TEST_F(VirtioMmioLegacyTest, ADriverFindsAVersion1DeviceAndBringsItUp) {
  EXPECT_EQ(Get(abi::kMmioVersion), 1u);
  EXPECT_EQ(Get(abi::kMmioDeviceId), 1u);
  EXPECT_EQ(device_.transport(), "virtio-mmio 0xfe000000 (legacy)");
  Set(abi::kMmioGuestPageSize, 0x1000);
  Set(abi::kMmioStatus, 0);
  Set(abi::kMmioStatus, kFound);
  Set(abi::kMmioDeviceFeaturesSel, 1);
  EXPECT_EQ(Get(abi::kMmioDeviceFeatures), 0u);
  Set(abi::kMmioDeviceFeaturesSel, 0);
  EXPECT_EQ(Get(abi::kMmioDeviceFeatures), device_.offered_to_legacy().low());
  Set(abi::kMmioDriverFeaturesSel, 1);
  Set(abi::kMmioDriverFeatures, 0xffff'ffff);
  Set(abi::kMmioDriverFeaturesSel, 0);
  Set(abi::kMmioDriverFeatures, 0x20);
  EXPECT_EQ(device_.acked().low(), 0x20u);
  SetUpQueue(1, 0x1'0010);
  const VringSetup setup = device_.queue_setup(1);
  EXPECT_EQ(setup.size, 64);
  EXPECT_EQ(Value(setup.desc), 0x1001'0000u);
  EXPECT_EQ(Value(setup.driver), 0x1001'0400u);
  EXPECT_EQ(Value(setup.device), 0x1001'1000u);
  EXPECT_EQ(Get(abi::kMmioQueuePfn), 0x1'0010u);
  Set(abi::kMmioStatus, kReady);
  EXPECT_TRUE(device_.is_legacy());
  EXPECT_EQ(Get(abi::kMmioStatus), kReady);
  EXPECT_EQ(Get(abi::kMmioInterruptStatus), 1u);
  EXPECT_TRUE(machine_.vm().GuestWrite(kAddress + abi::kMmioQueueNotify, 4, 1));
  EXPECT_TRUE(device_.Kicked(1));
  // The driver gives the queue back, and the device.
  Set(abi::kMmioQueuePfn, 0);
  EXPECT_FALSE(device_.queue_enabled(1));
  Set(abi::kMmioStatus, 0);
  EXPECT_EQ(device_.status(), 0);
}

TEST_F(VirtioMmioLegacyTest, ThePageSizeStaysOverResetsOfTheDeviceOnly) {
  Set(abi::kMmioGuestPageSize, 0x1000);
  Set(abi::kMmioStatus, 0);
  SetUpQueue(0, 0x10);
  EXPECT_TRUE(device_.queue_enabled(0));
  transport_->Reset();
  SetUpQueue(0, 0x10);
  EXPECT_FALSE(device_.queue_enabled(0));  // nobody knows where that would be
}

TEST_F(VirtioMmioLegacyTest, HasNoRegistersOfVersion2) {
  Set(abi::kMmioGuestPageSize, 0x1000);
  Set(abi::kMmioQueueSel, 0);
  for (const uint32_t offset : {abi::kMmioQueueDescLow, abi::kMmioQueueDriverLow,
                                abi::kMmioQueueDeviceLow, abi::kMmioQueueReady}) {
    Set(offset, 1);
    EXPECT_EQ(Get(offset), 0u) << offset;
  }
  EXPECT_FALSE(device_.queue_enabled(0));
  EXPECT_EQ(Value(device_.queue_setup(0).desc), 0u);
}

TEST_F(VirtioMmioLegacyTest, OddNumbersMakeNoQueue) {
  for (const uint32_t page : {0u, 1u, 3u, 0xffff'ffffu}) {
    Set(abi::kMmioGuestPageSize, page);
    for (const uint32_t queue : {0u, 2u, 3u, 0xffff'ffffu}) {
      for (const uint32_t align : {0u, 3u, 0xffff'ffffu}) {
        for (const uint32_t pfn : {0u, 1u, 0xffff'ffffu}) {
          Set(abi::kMmioQueueSel, queue);
          Set(abi::kMmioQueueSize, pfn);
          Set(abi::kMmioQueueAlign, align);
          Set(abi::kMmioQueuePfn, pfn);
          Get(abi::kMmioQueuePfn);
          Set(abi::kMmioQueuePfn, 0);
        }
      }
    }
  }
  for (int queue = 0; queue < 3; ++queue) EXPECT_FALSE(device_.queue_enabled(queue));
}

TEST(VirtioMmioLegacyTypes, OnlyOldTypesHaveIt) {
  fakes::WiredMachine machine;
  fakes::FakeDevice device{machine.kernel};
  device.set_device_id(DeviceId::kVsock);
  const auto transport = VirtioMmio::Create(machine.kernel, device, *machine.wiring, machine.loop,
                                            {.address = kAddress, .gsi = 20, .legacy = true});
  EXPECT_THAT(std::string(transport.status().message()),
              HasSubstr("net0: vsock devices have no legacy interface"));
}

}  // namespace
}  // namespace vhost

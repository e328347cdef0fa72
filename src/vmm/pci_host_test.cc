// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/pci_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "kernel-abi/kernel.h"
#include "vhost/transport/pci_config_space.h"
#include "vhost/transport/register_map.h"

namespace vmm {
namespace {

using vhost::PciConfigSpace;

// A function with a small and a big BAR, which answer with their index.
class FakeFunction final : public vhost::PciFunction {
 public:
  explicit FakeFunction(bool with_ports = false) : space_({.vendor = 0x1234, .device = 0x5678}) {
    space_.AddBar(0, 0x1000, PciConfigSpace::BarType::k32Bit);
    if (with_ports) space_.AddBar(4, 0x20, PciConfigSpace::BarType::kIo);
    space_.AddBar(2, 0x4000, PciConfigSpace::BarType::k64BitPrefetchable);
  }
  void ConfigRead(uint32_t offset, std::span<std::byte> to) override { space_.Read(offset, to); }
  void ConfigWrite(uint32_t offset, std::span<const std::byte> from) override {
    space_.Write(offset, from);
    for (const vhost::PciBar& bar : bars()) {
      if (listener_) listener_(bar);
    }
  }
  std::vector<vhost::PciBar> bars() const override { return space_.bars(); }
  void SetBarListener(BarListener listener) override { listener_ = std::move(listener); }
  void BarRead(int bar, uint64_t, std::span<std::byte> to) override {
    vhost::StoreLittleEndian(to, 0xB0 + static_cast<uint64_t>(bar));
  }
  void BarWrite(int, uint64_t, std::span<const std::byte>) override {}
  absl::Status PlaceBar(int bar, uint64_t address) override {
    return space_.PlaceBar(bar, address);
  }
  void Reset() override {
    space_.Reset();
    ++resets;
  }
  int resets = 0;

 private:
  PciConfigSpace space_;
  BarListener listener_;
};

class PciHostTest : public testing::Test {
 protected:
  void Out(uint64_t port, size_t size, uint64_t value) {
    std::array<std::byte, 8> data{};
    vhost::StoreLittleEndian(data, value);
    host_.Write(port - kPciConfigPort, std::span(data).first(size));
  }
  uint64_t In(uint64_t port, size_t size) {
    std::array<std::byte, 8> data{};
    host_.Read(port - kPciConfigPort, std::span(data).first(size));
    return vhost::LoadLittleEndian(data);
  }
  void Select(uint32_t slot, uint32_t offset) {
    Out(0xCF8, 4, 1U << 31 | slot << 11 | (offset & 0xFC));
  }
  uint64_t ReadConfig(uint32_t slot, uint32_t offset, size_t size) {
    Select(slot, offset);
    return In(0xCFC + offset % 4, size);
  }
  void WriteConfig(uint32_t slot, uint32_t offset, size_t size, uint64_t value) {
    Select(slot, offset);
    Out(0xCFC + offset % 4, size, value);
  }
  uint64_t ReadMemory(uint64_t address) {
    std::array<std::byte, 1> data{};
    memory_.Read(address, data);
    return vhost::LoadLittleEndian(data);
  }

  PowerSwitch power_ = *PowerSwitch::Create(kernel_abi::LinuxKernel());
  Bus memory_;
  Bus ports_;
  FakeFunction function_;
  PciHost host_{memory_, ports_, power_};
};

constexpr uint16_t kIoEnable = 1;
constexpr uint16_t kMemoryEnable = 2;

TEST_F(PciHostTest, ShowsTheBridgeTheFunctionsAndNothingElse) {
  ASSERT_TRUE(host_.Add(3, "fake", function_).ok());
  EXPECT_EQ(ReadConfig(0, 0x0A, 2), 0x0600U);  // class: host bridge
  EXPECT_EQ(ReadConfig(3, 0, 4), 0x5678'1234U);
  EXPECT_EQ(ReadConfig(3, 2, 2), 0x5678U);
  EXPECT_EQ(ReadConfig(4, 0, 4), 0xFFFF'FFFFU);
  Out(0xCF8, 4, 1U << 31 | 1 << 16 | 3 << 11);  // another bus
  EXPECT_EQ(In(0xCFC, 4), 0xFFFF'FFFFU);
  Out(0xCF8, 4, 1U << 31 | 3 << 11 | 1 << 8);  // another function
  EXPECT_EQ(In(0xCFC, 4), 0xFFFF'FFFFU);
  Out(0xCF8, 4, 3 << 11);  // not enabled
  EXPECT_EQ(In(0xCFC, 4), 0xFFFF'FFFFU);
}

TEST_F(PciHostTest, PlacesBarsAndDecodesThemWhenTheGuestEnablesThem) {
  ASSERT_TRUE(host_.Add(1, "fake", function_).ok());
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xFFU);
  WriteConfig(1, 4, 2, kMemoryEnable);
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xB2U);  // the big one comes first
  EXPECT_EQ(ReadMemory(kBarWindowStart + 0x4000), 0xB0U);
  WriteConfig(1, 0x10, 4, kBarWindowStart + 0x10'0000);
  EXPECT_EQ(ReadMemory(kBarWindowStart + 0x4000), 0xFFU);
  EXPECT_EQ(ReadMemory(kBarWindowStart + 0x10'0000), 0xB0U);
  WriteConfig(1, 4, 2, 0);
  EXPECT_EQ(ReadMemory(kBarWindowStart + 0x10'0000), 0xFFU);
}

TEST_F(PciHostTest, ABarThatIsPutOnAnotherAnswersNowhereUntilItMoves) {
  ASSERT_TRUE(host_.Add(1, "fake", function_).ok());
  WriteConfig(1, 4, 2, kMemoryEnable);
  WriteConfig(1, 0x10, 4, kBarWindowStart);
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xB2U);
  WriteConfig(1, 0x10, 4, kBarWindowStart + 0x10'0000);
  EXPECT_EQ(ReadMemory(kBarWindowStart + 0x10'0000), 0xB0U);
}

TEST_F(PciHostTest, ABarThatWasPutOnAnotherAnswersWhenThatLeaves) {
  ASSERT_TRUE(host_.Add(1, "fake", function_).ok());
  WriteConfig(1, 4, 2, kMemoryEnable);
  const uint64_t where = kBarWindowStart + 0x10'0000;
  WriteConfig(1, 0x18, 4, where);
  WriteConfig(1, 0x10, 4, where + 0x1000);  // inside of the other's 0x4000 bytes
  EXPECT_EQ(ReadMemory(where + 0x1000), 0xB2U);
  WriteConfig(1, 0x18, 4, where + 0x4000);
  EXPECT_EQ(ReadMemory(where + 0x1000), 0xB0U);
  EXPECT_EQ(ReadMemory(where), 0xFFU);
  EXPECT_EQ(ReadMemory(where + 0x4000), 0xB2U);
}

TEST_F(PciHostTest, ABarInIoSpaceAnswersOnThePorts) {
  FakeFunction function(/*with_ports=*/true);
  ASSERT_TRUE(host_.Add(1, "fake", function).ok());
  const auto read_port = [&](uint64_t port) {
    std::array<std::byte, 1> data{};
    ports_.Read(port, data);
    return vhost::LoadLittleEndian(data);
  };
  WriteConfig(1, 4, 2, kMemoryEnable);
  EXPECT_EQ(read_port(kBarPortsStart), 0xFFU);
  WriteConfig(1, 4, 2, kIoEnable);
  EXPECT_EQ(read_port(kBarPortsStart), 0xB4U);
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xFFU);
  WriteConfig(1, 0x20, 4, 0xD000 | 1);
  EXPECT_EQ(read_port(kBarPortsStart), 0xFFU);
  EXPECT_EQ(read_port(0xD01F), 0xB4U);
  host_.Remove(1);
  EXPECT_EQ(read_port(0xD01F), 0xFFU);
}

TEST_F(PciHostTest, AFunctionThatIsHiddenIsNotFoundAndItsSlotStaysTaken) {
  ASSERT_TRUE(host_.Add(3, "fake", function_).ok());
  WriteConfig(3, 4, 2, kMemoryEnable);
  EXPECT_TRUE(host_.Hide(3));
  EXPECT_FALSE(host_.Hide(3));
  EXPECT_FALSE(host_.Hide(0)) << "the bridge";
  EXPECT_FALSE(host_.Hide(9)) << "nobody";
  EXPECT_EQ(ReadConfig(3, 0, 4), 0xFFFF'FFFFU);
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xFFU);
  EXPECT_FALSE(host_.FreeSlot(3).ok());
  host_.Reset();
  EXPECT_EQ(function_.resets, 0);
  memory_.WaitForCalls();
  host_.Remove(3);
  EXPECT_TRUE(host_.FreeSlot(3).ok());
  // Another has the slot, and the place of its BARs.
  FakeFunction other;
  ASSERT_TRUE(host_.Add(3, "other", other).ok());
  WriteConfig(3, 4, 2, kMemoryEnable);
  EXPECT_EQ(ReadMemory(kBarWindowStart), 0xB2U);
  host_.Remove(3);
}

TEST_F(PciHostTest, SlotsAreGivenOutOnce) {
  EXPECT_EQ(*host_.FreeSlot(std::nullopt), 1U);
  EXPECT_EQ(*host_.FreeSlot(7), 7U);
  ASSERT_TRUE(host_.Add(7, "fake", function_).ok());
  EXPECT_FALSE(host_.FreeSlot(7).ok());
  EXPECT_FALSE(host_.FreeSlot(0).ok());
}

TEST_F(PciHostTest, TheResetRegisterResets) {
  Out(kResetPort, 1, 0x02);  // prepares
  EXPECT_EQ(power_.event(), PowerEvent::kNone);
  Out(kResetPort, 1, kResetValue);
  EXPECT_EQ(power_.event(), PowerEvent::kReset);
}

TEST_F(PciHostTest, AddressWritesThatAreNotWholeDwordsAreIgnored) {
  Out(0xCF8, 4, 0x8000'0000);
  Out(0xCF8, 2, 0xFFFF);
  EXPECT_EQ(In(0xCF8, 4), 0x8000'0000U);
}

TEST_F(PciHostTest, ResetReachesTheFunctionsAndForgetsTheAddress) {
  ASSERT_TRUE(host_.Add(1, "fake", function_).ok());
  Select(1, 0);
  host_.Reset();
  EXPECT_EQ(function_.resets, 1);
  EXPECT_EQ(In(0xCF8, 4), 0U);
}

}  // namespace
}  // namespace vmm

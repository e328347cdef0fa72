// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/fakes/fake_device.h"
#include "tests/fakes/pci_driver.h"
#include "tests/fakes/wired_machine.h"
#include "vhost/transport/virtio_pci.h"

namespace vhost {

// A function with three queues on a fake KVM, and the driver that uses it.
class VirtioPciFixture : public testing::Test {
 protected:
  static constexpr uint64_t kBar = 0xc010'0000;
  static constexpr uint32_t kIntxGsi = 17;
  static constexpr uint16_t kMemoryAndMaster = 0x6;
  static constexpr uint8_t kDriverOk = 0xf;

  explicit VirtioPciFixture(VirtioPciOptions options = {.location = "00:01.0",
                                                        .intx_gsi = kIntxGsi})
      : function_(
            *VirtioPci::Create(machine_.kernel, device_, *machine_.wiring, machine_.loop, options)),
        driver_(*function_) {}

  // What firmware and PCI code do before a driver is there.
  void Enumerate() {
    ASSERT_TRUE(driver_.WalkCapabilities());
    driver_.PlaceBar(1, 0xc000'0000, false);
    driver_.PlaceBar(4, kBar, true);
    driver_.SetCommand(kMemoryAndMaster);
  }

  // Vector 0: configuration; 1 and 2: queues 0 and 1; queue 2 (control) shares vector 2.
  void SetUpMsix() {
    driver_.EnableMsix();
    for (uint16_t vector = 0; vector < 3; ++vector) {
      driver_.SetMessage(vector, fakes::PciDriver::kMsiAddress, 0x40u + vector);
      driver_.Unmask(vector);
    }
    EXPECT_EQ(driver_.SetConfigVector(0), 0);
    EXPECT_EQ(driver_.SetQueueVector(0, 1), 1);
    EXPECT_EQ(driver_.SetQueueVector(1, 2), 2);
    EXPECT_EQ(driver_.SetQueueVector(2, 2), 2);
  }

  void BringUp() {
    Enumerate();
    driver_.SetStatus(0);
    SetUpMsix();
    driver_.SetStatus(kDriverOk);
  }
  void BringUpWithoutMsix() {
    Enumerate();
    driver_.SetStatus(0);
    driver_.SetStatus(kDriverOk);
  }
  bool LineHigh() { return machine_.lines[kIntxGsi]; }
  int Requests(const std::string& name) {
    int count = 0;
    for (const fakes::LoggedCall& call : machine_.kernel.calls()) count += call.name == name;
    return count;
  }

  fakes::WiredMachine machine_;
  fakes::FakeDevice device_{machine_.kernel};
  std::unique_ptr<VirtioPci> function_;
  fakes::PciDriver driver_;
};
}  // namespace vhost

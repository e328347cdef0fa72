// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each system call of a function's life fails once.
#include "vhost/transport/virtio_pci_fixture.h"

namespace vhost {
namespace {

using fakes::PciDriver;

constexpr uint64_t kBar = 0xc010'0000;
constexpr uint32_t kIntxGsi = 17;
constexpr uint16_t kMemoryAndMaster = 0x6;
constexpr uint8_t kDriverOk = 0xf;

TEST(VirtioPciFaultTest, EveryStepThatFailsLeavesNothingBehind) {
  for (int k = 1;; ++k) {
    fakes::WiredMachine machine;
    fakes::FakeDevice device(machine.kernel);
    const fakes::OpenState before = machine.kernel.Survivors();
    const int fds = fakes::CountOpenFds();
    machine.kernel.FailCall(k, EMFILE);
    {
      auto function = VirtioPci::Create(machine.kernel, device, *machine.wiring, machine.loop,
                                        {.location = "00:02.0", .intx_gsi = kIntxGsi});
      if (function.ok()) {
        PciDriver driver(**function);
        driver.PlaceBar(4, kBar, true);
        driver.SetCommand(kMemoryAndMaster);
        ASSERT_TRUE(driver.WalkCapabilities());
        driver.EnableMsix();
        for (uint16_t vector = 0; vector < 3; ++vector) {
          driver.SetMessage(vector, PciDriver::kMsiAddress, 0x40u + vector);
          driver.Unmask(vector);
          driver.SetQueueVector(vector, vector);
        }
        driver.SetStatus(kDriverOk);
        driver.SetStatus(0);
      }
    }
    // Linux has no way to fail a removal of what is there.
    if (machine.kernel.FaultText().find("DEASSIGN") == std::string::npos) {
      EXPECT_EQ(machine.kernel.Survivors().Text(), before.Text())
          << k << ": " << machine.kernel.FaultText();
      EXPECT_EQ(fakes::CountOpenFds(), fds) << k << ": " << machine.kernel.FaultText();
    }
    if (!machine.kernel.FaultMet()) break;
    ASSERT_LT(k, 200);
  }
}

}  // namespace
}  // namespace vhost

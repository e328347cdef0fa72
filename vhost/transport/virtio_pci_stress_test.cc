// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// vCPUs, a backend and the control thread at the same time, on an event loop with a thread of its
// own. Mostly for ThreadSanitizer; also, whatever went on, nothing that is signalled afterwards may
// be lost, and nobody may wait for anybody for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "tests/fakes/fake_device.h"
#include "tests/fakes/pci_driver.h"
#include "tests/fakes/wired_machine.h"
#include "vhost/epoll_loop.h"
#include "vhost/transport/virtio_pci.h"

namespace vhost {
namespace {

using fakes::PciDriver;

constexpr uint64_t kBar = 0xc010'0000;

TEST(VirtioPciStressTest, VcpusBackendAndReportsDoNotDisturbEachOther) {
  std::unique_ptr<EpollLoop> loop = *EpollLoop::Create();
  fakes::WiredMachine machine;
  fakes::FakeDevice device(machine.kernel);
  auto function = VirtioPci::Create(machine.kernel, device, *machine.wiring, *loop,
                                    {.location = "00:01.0", .intx_gsi = 17});
  ASSERT_TRUE(function.ok());
  PciDriver boot(**function);
  boot.PlaceBar(4, kBar, true);
  boot.SetCommand(0x6);
  ASSERT_TRUE(boot.WalkCapabilities());
  boot.SetStatus(0xf);

  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  const auto run = [&](std::function<void(PciDriver&, int)> step) {
    threads.emplace_back([&, step = std::move(step)] {
      PciDriver driver(**function);
      ASSERT_TRUE(driver.WalkCapabilities());
      for (int i = 0; !stop; ++i) step(driver, i);
    });
  };
  run([](PciDriver& driver, int i) {  // a driver that comes and goes
    driver.SetMsixControl(i % 3 == 0 ? 0 : 0x8000);
    if (i % 7 == 0) driver.SetStatus(0);
    driver.SetQueueVector(static_cast<uint16_t>(i % 3), static_cast<uint16_t>(i % 4));
    driver.SetStatus(0xf);
  });
  run([](PciDriver& driver, int i) {  // one that moves interrupts
    const auto vector = static_cast<uint16_t>(i % 4);
    driver.Mask(vector);
    driver.SetMessage(vector, PciDriver::kMsiAddress, static_cast<uint32_t>(i & 0xff));
    driver.Pending(vector);
    driver.Unmask(vector);
  });
  run([](PciDriver& driver, int i) {  // interrupts by the line, and the command register
    driver.Isr();
    driver.SetCommand(i % 5 == 0 ? 0x406 : 0x6);
  });
  run([](PciDriver& driver, int i) {  // notifications that exit
    driver.SetBar(4, 0x3000u + 4u * static_cast<unsigned>(i % 3), 0, 2);
  });
  run([&device](PciDriver& /*driver*/, int i) {  // the backend
    device.UseBuffers(i % 3);
    if (i % 4 == 0) device.ChangeConfig();
  });
  run([&function](PciDriver& /*driver*/, int /*i*/) { (void)(*function)->Report(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  stop = true;
  for (std::thread& thread : threads) thread.join();

  boot.SetStatus(0);
  boot.SetCommand(0x6);
  boot.EnableMsix();
  boot.SetMessage(1, PciDriver::kMsiAddress, 0x99);
  boot.Unmask(1);
  ASSERT_EQ(boot.SetQueueVector(0, 1), 1);
  boot.SetStatus(0xf);
  machine.TakeMessages();
  device.UseBuffers(0);
  EXPECT_THAT(machine.TakeMessages(), testing::ElementsAre(0x99));

  boot.SetMsixControl(0);
  device.UseBuffers(1);
  bool seen = false;
  for (int i = 0; i < 2000 && !seen; ++i) {
    seen = (boot.Config(6, 2) & 8) != 0;
    if (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(seen);
  function->reset();
  EXPECT_THAT(machine.vm().irqfds(), testing::IsEmpty());
}

}  // namespace
}  // namespace vhost

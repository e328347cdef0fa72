// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For tests on Linux's own nodes: this process plays the guest. It has RAM of its own with rings in
// it, drives them as a driver does, and has a network namespace for its TAPs. Where the machine has
// no such node the test is skipped, and runs in the test VM (scripts/vm).
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/vhost.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/backend.h"
#include "vhost/host/network_namespace_fixture.h"

namespace vhost {

// Generous, since the test VM is emulated.
inline constexpr int kPatienceMs = 10'000;

class RealMachineTest : public NetworkNamespaceTest {
 protected:
  struct Queue {
    fakes::DriverRing ring;
    kernel_abi::EventFd kick;
    kernel_abi::EventFd call;
  };

  explicit RealMachineTest(const char* node) : node_(node) {}

  void SetUp() override {
    NetworkNamespaceTest::SetUp();
    if (::access(node_, R_OK | W_OK) != 0) GTEST_SKIP() << "skipped: no " << node_;
  }

  Queue& AddQueue(uint16_t size = 256) {
    queues_.push_back(std::make_unique<Queue>(Queue{fakes::DriverRing(ram_, {.size = size}),
                                                    *kernel_abi::EventFd::Create(kernel_),
                                                    *kernel_abi::EventFd::Create(kernel_)}));
    return *queues_.back();
  }
  BackendVring Vring(int queue, VringBase base = 0) {
    Queue& of = *queues_[static_cast<size_t>(queue)];
    return {.queue = queue,
            .vring = *Vring::Create(of.ring.setup(), VringLayout::kSplit, *memory_),
            .base = base,
            .kick_fd = of.kick.get(),
            .call_fd = of.call.get()};
  }
  BackendStart AllQueues(VirtioFeatures acked) {
    BackendStart start{.acked = acked, .memory = memory_, .vrings = {}};
    for (size_t i = 0; i < queues_.size(); ++i) {
      start.vrings.push_back(Vring(static_cast<int>(i)));
    }
    return start;
  }

  // The next chain that the kernel returns on `queue`, waiting for its interrupt.
  static std::optional<fakes::DriverRing::Used> WaitUsed(Queue& queue) {
    std::optional<fakes::DriverRing::Used> used;
    Wait([&] {
      used = queue.ring.TakeUsed();
      if (used.has_value()) return true;
      pollfd call{.fd = queue.call.get(), .events = POLLIN, .revents = 0};
      ::poll(&call, 1, 100);
      queue.call.Drain();
      return false;
    });
    return used;
  }
  // Until `done`, or patience is over. Sleeps are `done`'s.
  static bool Wait(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
    }
    return true;
  }

  const char* node_;
  kernel_abi::Kernel& kernel_ = kernel_abi::LinuxKernel();
  fakes::GuestRam ram_{64 << 20};
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace vhost

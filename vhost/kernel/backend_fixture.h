// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For the tests of this folder: a machine with a fake kernel, a guest's RAM with rings in it, the
// eventfds of the queues, and TAP queues.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/node.h"
#include "kernel-abi/tun.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/kernel/net_backend.h"
#include "vhost/kernel/vsock_backend.h"

namespace vhost {

// What a driver acks that any vhost offers.
inline constexpr VirtioFeatures kPlainFeatures = {
    VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc, VirtioFeature::kEventIdx};

class BackendTest : public testing::Test {
 protected:
  struct Queue {
    fakes::DriverRing ring;
    kernel_abi::EventFd kick;
    kernel_abi::EventFd call;
  };

  explicit BackendTest(fakes::FakeKernelOptions options = {}) : kernel_(std::move(options)) {}

  // Queues 0 to `count` - 1, with rings and eventfds of their own.
  void MakeQueues(int count) {
    for (int i = 0; i < count; ++i) {
      queues_.push_back(
          std::make_unique<Queue>(Queue{fakes::DriverRing(ram_, {.size = 64}),
                                        *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel()),
                                        *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel())}));
    }
  }
  BackendVring Vring(int queue, VringBase base = 0) {
    Queue& of = *queues_[static_cast<size_t>(queue)];
    return {.queue = queue,
            .vring = *Vring::Create(of.ring.setup(), VringLayout::kSplit, *memory_),
            .base = base,
            .kick_fd = of.kick.get(),
            .call_fd = of.call.get()};
  }
  BackendStart AllQueues(VringBase base = 0) {
    BackendStart start{.acked = kPlainFeatures, .memory = memory_, .vrings = {}};
    for (size_t i = 0; i < queues_.size(); ++i) {
      start.vrings.push_back(Vring(static_cast<int>(i), base));
    }
    return start;
  }

  // `count` queues of a TAP that suits a modern driver.
  void MakeTap(int count, int header_bytes = 12, short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) {
    if (count > 1) flags |= IFF_MULTI_QUEUE;
    for (int i = 0; i < count; ++i) {
      taps_.push_back(*kernel_abi::OpenNode(kernel_, kernel_abi::kTunPath));
      const kernel_abi::Subject tap{kernel_, taps_.back().get(), "tap"};
      ASSERT_TRUE(
          kernel_abi::Call(tap, kernel_abi::kTunSetIff, kernel_abi::InterfaceRequest("tap0", flags))
              .ok());
      if ((flags & IFF_VNET_HDR) == 0) continue;
      ASSERT_TRUE(kernel_abi::Call(tap, kernel_abi::kTunSetVnetHdrSz, header_bytes).ok());
    }
  }
  NetBackendOptions NetOptions() const {
    NetBackendOptions options;
    for (const kernel_abi::UniqueFd& tap : taps_) options.tap_fds.push_back(tap.get());
    return options;
  }

  // A net device of `pairs` queue pairs with its rings and TAP.
  std::unique_ptr<NetBackend> MakeNet(int pairs) {
    MakeQueues(2 * pairs);
    MakeTap(pairs);
    absl::StatusOr<std::unique_ptr<NetBackend>> net = NetBackend::Create(kernel_, NetOptions());
    EXPECT_TRUE(net.ok()) << net.status();
    return net.ok() ? *std::move(net) : nullptr;
  }
  std::unique_ptr<VsockBackend> MakeVsock() {
    MakeQueues(2);
    absl::StatusOr<std::unique_ptr<VsockBackend>> vsock =
        VsockBackend::Create(kernel_, VsockBackendOptions{.cid = 42});
    EXPECT_TRUE(vsock.ok()) << vsock.status();
    return vsock.ok() ? *std::move(vsock) : nullptr;
  }

  // The names of the requests that were made of vhost nodes since the log was cleared.
  std::vector<std::string> VhostRequests() const { return fakes::Names(kernel_.calls(), "VHOST_"); }
  fakes::FakeVhost& vhost(size_t node = 0) { return *kernel_.vhosts().at(node); }

  fakes::FakeKernel kernel_;
  fakes::GuestRam ram_;
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<kernel_abi::UniqueFd> taps_;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the tests of split and packed queues share: a ring, its driver, and the queue that serves
// it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {

class VirtqueueTest : public ::testing::Test {
 protected:
  void Build(fakes::DriverRing::Options options = {}) {
    queue_.reset();  // Publishes into the old ring.
    ring_ = std::make_unique<fakes::DriverRing>(ram_, options);
    Serve(Acked(options), InitialBase(ring_->layout()));
  }
  void Serve(VirtioFeatures acked, VringBase base) {
    queue_.reset();  // The old one publishes before the new one looks.
    auto vring = Vring::Create(ring_->setup(), ring_->layout(), *memory_);
    ASSERT_TRUE(vring.ok()) << vring.status();
    queue_ =
        Virtqueue::Create(kernel_abi::LinuxKernel(), *vring, base, acked, memory_, call_->get());
  }
  static VirtioFeatures Acked(const fakes::DriverRing::Options& options) {
    VirtioFeatures acked = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc};
    acked.Set(VirtioFeature::kEventIdx, options.event_idx);
    acked.Set(VirtioFeature::kRingPacked, options.packed);
    acked.Set(VirtioFeature::kInOrder, options.in_order);
    return acked;
  }

  Chain MustTake() {
    Chain chain;
    EXPECT_TRUE(queue_->Take(chain)) << queue_->broken();
    return chain;
  }
  bool NothingToTake() {
    Chain chain;
    return !queue_->Take(chain) && queue_->broken().ok();
  }
  absl::Status TakeError() {
    Chain chain;
    EXPECT_FALSE(queue_->Take(chain));
    return queue_->broken();
  }
  void ReturnAndFlush(Chain chain, uint32_t written) {
    chain.Return(written);
    queue_->Flush();
  }
  static std::string Text(const Chain& chain) {
    std::string text(chain.readable_bytes(), '\0');
    EXPECT_TRUE(chain.Read(0, std::as_writable_bytes(std::span(text))).ok());
    return text;
  }
  static std::span<const std::byte> AsBytes(const std::string& text) {
    return std::as_bytes(std::span(text));
  }

  fakes::GuestRam ram_;
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  std::unique_ptr<fakes::DriverRing> ring_;
  absl::StatusOr<kernel_abi::EventFd> call_ =
      kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  std::unique_ptr<Virtqueue> queue_;
};

}  // namespace vhost::inprocess

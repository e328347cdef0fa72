// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For bench_inprocess_net: one queue on one TAP, run by the bench's own thread.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/net_bench_machine.h"
#include "vhost/inprocess/frame_ring.h"
#include "vhost/inprocess/net_receive.h"
#include "vhost/inprocess/net_transmit.h"

namespace vhost::bench {

using inprocess::FrameRing;
using inprocess::FrameSpec;
using inprocess::NetCounters;
using inprocess::NetScratch;
using inprocess::ReceiveQueue;
using inprocess::TransmitQueue;
using inprocess::Virtqueue;

inline constexpr uint16_t kRing = 256;
inline constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc};

inline kernel_abi::Kernel& TheKernel() { return kernel_abi::LinuxKernel(); }

inline uint64_t ThreadCpuNs() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

inline FrameSpec BenchSpec(size_t payload, bool partial) {
  return {.dont_fragment = true, .payload = payload, .partial = partial};
}

class TransmitMachine {
 public:
  TransmitMachine(const std::string& name, inprocess::FlowMerge::Kinds merge,
                  bool by_io_uring = false)
      : tap_(TheKernel(), name) {
    if (by_io_uring) io_uring_ = OrDie(FrameRing::Create(TheKernel(), tap_.fd()));
    ring_ = std::make_unique<BenchRing>(ram_, kRing, 66'000, false);
    queue_ = std::make_unique<TransmitQueue>(
        Virtqueue::Create(TheKernel(), ring_->vring(*memory_), 0, kAcked, memory_, -1),
        TransmitQueue::Options{.tap_fd = tap_.fd(), .merge = merge, .ring = io_uring_.get()},
        *scratch_, counters_);
  }
  BenchRing& ring() { return *ring_; }
  const NetCounters& counters() const { return counters_; }
  const HostTap& tap() const { return tap_; }

  // CPU ns a frame.
  double Ours(int fills) {
    uint64_t ns = 0;
    for (int i = 0; i < fills; ++i) {
      ring_->Publish(kRing);
      const uint64_t begin = ThreadCpuNs();
      while (!ring_->all_used()) queue_->Burst();
      ns += ThreadCpuNs() - begin;
    }
    return static_cast<double>(ns) / fills / kRing;
  }

 private:
  fakes::GuestRam ram_{32 << 20};
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  HostTap tap_;
  std::unique_ptr<BenchRing> ring_;
  std::unique_ptr<FrameRing> io_uring_;
  std::unique_ptr<NetScratch> scratch_ = std::make_unique<NetScratch>();
  NetCounters counters_;
  std::unique_ptr<TransmitQueue> queue_;
};

// A receive queue, whose frames the host sends before they are counted.
class ReceiveMachine {
 public:
  struct Options {
    size_t payload = 10;
    uint16_t gso_size = 0;
    bool mergeable = true;
    uint32_t buffer_bytes = 1536;
    bool by_io_uring = false;
  };
  ReceiveMachine(const std::string& name, const Options& options)
      : ram_((uint64_t{options.buffer_bytes} + 64) * kRing * 2 + (1 << 20)),
        tap_(TheKernel(), name,
             kernel_abi::kTunFCsum | kernel_abi::kTunFTso4 | kernel_abi::kTunFTso6),
        ring_(ram_, kRing, options.buffer_bytes, true),
        frame_(WithHeader(BenchSpec(options.payload, options.gso_size != 0), options.gso_size)),
        frames_(options.mergeable && options.gso_size != 0 ? 12 : 128),
        buffers_(kRing,
                 std::vector<std::byte>(std::max<size_t>(options.buffer_bytes, frame_.size()))) {
    if (options.by_io_uring) io_uring_ = OrDie(FrameRing::Create(TheKernel(), tap_.fd()));
    queue_ = std::make_unique<ReceiveQueue>(
        Virtqueue::Create(TheKernel(), ring_.vring(*memory_), 0, kAcked, memory_, -1),
        ReceiveQueue::Options{.tap_fd = tap_.fd(),
                              .mergeable = options.mergeable,
                              .large = options.gso_size != 0,
                              .most_frame_bytes = 1518,
                              .ring = io_uring_.get()},
        *scratch_, counters_);
    ring_.Publish(kRing);
  }
  ~ReceiveMachine() { queue_->PutBackUnused(); }

  // CPU ns a frame, by read(2) alone. Both ways read into as much memory, one buffer after the
  // other.
  double Raw(int fills) {
    uint64_t ns = 0;
    for (int i = 0; i < fills; ++i) {
      for (int f = 0; f < frames_; ++f) tap_.Send(frame_);
      const uint64_t begin = ThreadCpuNs();
      for (int f = 0; f < frames_; ++f) {
        std::vector<std::byte>& buffer = buffers_[next_++ % kRing];
        if (::read(tap_.fd(), buffer.data(), buffer.size()) < 0) std::perror("bench: read");
      }
      ns += ThreadCpuNs() - begin;
    }
    return static_cast<double>(ns) / fills / frames_;
  }
  double Ours(int fills) {
    uint64_t ns = 0;
    for (int i = 0; i < fills; ++i) {
      for (int f = 0; f < frames_; ++f) tap_.Send(frame_);
      const uint64_t until = counters_.packets + static_cast<uint64_t>(frames_);
      const uint16_t used = ring_.used();
      const uint64_t begin = ThreadCpuNs();
      while (counters_.packets < until) queue_->Burst();
      ns += ThreadCpuNs() - begin;
      ring_.Publish(static_cast<uint16_t>(ring_.used() - used));
    }
    return static_cast<double>(ns) / fills / frames_;
  }

 private:
  fakes::GuestRam ram_;
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  HostTap tap_;
  BenchRing ring_;
  std::vector<std::byte> frame_;
  const int frames_;
  std::vector<std::vector<std::byte>> buffers_;
  size_t next_ = 0;
  std::unique_ptr<NetScratch> scratch_ = std::make_unique<NetScratch>();
  NetCounters counters_;
  std::unique_ptr<FrameRing> io_uring_;
  std::unique_ptr<ReceiveQueue> queue_;
};

}  // namespace vhost::bench

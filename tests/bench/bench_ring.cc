// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a buffer costs in a virtqueue of this process.
//
//   bench_ring sink split|split-in-order|packed|packed-in-order [--buffers N] [--cpus
//   DRIVER,DEVICE]
//       Two threads that poll, as the kernel's ringtest does: a driver that adds and takes back one
//       buffer after the other, and a device that returns each. Prints ns per buffer (wall).
//   bench_ring chains [--rounds N] [--check]
//       One thread that takes and returns chains, each buffer checked against guest memory: chains
//       of 1 direct descriptor and of 2, 4 and 16 in an indirect table, in bursts of 64. Prints ns
//       a chain and a descriptor. With --check the exit code is 1 beyond the goals.
//
// tests/bench/compare-rings runs the first beside ringtest, in turns.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernel-abi/kernel.h"
#include "tests/bench/bench_driver.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/inprocess/virtqueue.h"

namespace vhost::inprocess {
namespace {

using Clock = std::chrono::steady_clock;
using fakes::GuestRam;

constexpr uint16_t kRingSize = 256;  // ringtest's
constexpr uint32_t kBufferBytes = 256;

struct Options {
  std::string kind;
  int64_t buffers = 10'000'000;
  int rounds = 9;
  int burst = 1;
  int driver_cpu = 0;
  int device_cpu = 1;
  bool check = false;
};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "bench_ring: %s\n", message.c_str());
  std::exit(2);
}

double NsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void Pause() { __builtin_ia32_pause(); }

struct Ring {
  Ring(VringLayout layout, VirtioFeatures acked) {
    const VringBytes bytes = BytesOf(layout, kRingSize);
    setup = {.size = kRingSize,
             .desc = ram.Allocate(bytes.desc, 4096),
             .driver = ram.Allocate(bytes.driver, 4096),
             .device = ram.Allocate(bytes.device, 4096)};
    memory = ram.table();
    auto vring = Vring::Create(setup, layout, *memory);
    if (!vring.ok()) Fail(vring.status().ToString());
    queue = Virtqueue::Create(kernel_abi::LinuxKernel(), *vring, InitialBase(layout), acked, memory,
                              -1);
  }
  GuestRam ram{uint64_t{8} << 20};
  VringSetup setup;
  std::shared_ptr<const MemoryTable> memory;
  std::unique_ptr<Virtqueue> queue;
};

// ---- sink --------------------------------------------------------------------------------------

// Returns all that there is until told to end.
void Sink(Virtqueue& queue, int cpu, int burst, const std::atomic<bool>& end) {
  PinTo(cpu);
  Chain chain;
  queue.DisableKicks();
  while (!end.load(std::memory_order_relaxed)) {
    int taken = 0;
    while (taken < burst && queue.Take(chain)) {
      chain.Return(0);
      ++taken;
    }
    if (taken > 0) {
      queue.Flush();
    } else {
      Pause();
    }
  }
}

template <typename Driver>
double RunSink(const Options& options, VirtioFeatures acked) {
  Ring ring(Driver::kLayout, acked);
  Driver driver(ring.ram, ring.setup, acked.Has(VirtioFeature::kInOrder));
  const bench::Buffer buffer{Value(ring.ram.Allocate(kBufferBytes)), kBufferBytes, 0};
  std::atomic<bool> end = false;
  std::thread device([&] { Sink(*ring.queue, options.device_cpu, options.burst, end); });
  PinTo(options.driver_cpu);
  int64_t added = 0;
  int64_t done = 0;
  const Clock::time_point start = Clock::now();
  while (done < options.buffers) {
    const bool more = added < options.buffers && driver.Add(buffer);
    if (more) ++added;
    const int reaped = driver.Reap();
    done += reaped;
    if (!more && reaped == 0) Pause();
  }
  const double ns = NsSince(start);
  end = true;
  device.join();
  if (!ring.queue->broken().ok()) Fail(ring.queue->broken().ToString());
  return ns / static_cast<double>(options.buffers);
}

double RunSinkOf(const Options& options) {
  const VirtioFeatures version1 = {VirtioFeature::kVersion1};
  const VirtioFeatures in_order = {VirtioFeature::kInOrder};
  const VirtioFeatures packed = {VirtioFeature::kRingPacked};
  if (options.kind == "split") return RunSink<bench::SplitDriver>(options, version1);
  if (options.kind == "split-in-order") {
    return RunSink<bench::SplitDriver>(options, version1 | in_order);
  }
  if (options.kind == "packed") return RunSink<bench::PackedDriver>(options, version1 | packed);
  if (options.kind == "packed-in-order") {
    return RunSink<bench::PackedDriver>(options, version1 | packed | in_order);
  }
  Fail("no such ring: " + options.kind);
}

// ---- chains ------------------------------------------------------------------------------------

constexpr int kBurst = 64;

// ns that taking and returning a chain of `descs` costs, the driver's part not counted.
template <typename Driver>
double RunChains(VirtioFeatures acked, int descs) {
  Ring ring(Driver::kLayout, acked);
  Driver driver(ring.ram, ring.setup, acked.Has(VirtioFeature::kInOrder));
  std::vector<bench::Buffer> buffers;
  for (int i = 0; i < kBurst; ++i) {
    if (descs == 1) {
      buffers.push_back({Value(ring.ram.Allocate(kBufferBytes)), kBufferBytes, 0});
      continue;
    }
    std::vector<std::byte> table(sizeof(kernel_abi::VirtqDesc) * descs);
    for (int d = 0; d < descs; ++d) {
      const uint64_t address = Value(ring.ram.Allocate(kBufferBytes));
      const uint16_t next = d + 1 < descs ? kernel_abi::kDescFNext : uint16_t{0};
      const kernel_abi::VirtqDesc split{address, kBufferBytes, next, static_cast<uint16_t>(d + 1)};
      const kernel_abi::PackedDesc packed{address, kBufferBytes, 0, 0};
      const void* desc = Driver::kLayout == VringLayout::kSplit ? static_cast<const void*>(&split)
                                                                : static_cast<const void*>(&packed);
      std::memcpy(&table[sizeof(split) * d], desc, sizeof(split));
    }
    const GuestAddress at = ring.ram.Allocate(table.size());
    ring.ram.Put(at, table);
    buffers.push_back({Value(at), static_cast<uint32_t>(table.size()), kernel_abi::kDescFIndirect});
  }
  std::vector<double> ns;
  uint64_t bytes = 0;
  for (int burst = 0; burst < 4000; ++burst) {
    for (const bench::Buffer& buffer : buffers) driver.Add(buffer);
    const Clock::time_point start = Clock::now();
    Chain chain;
    while (ring.queue->Take(chain)) {
      bytes += chain.readable_bytes();
      chain.Return(0);
    }
    ring.queue->SignalUsed();
    ns.push_back(NsSince(start) / kBurst);
    if (driver.Reap() != kBurst) Fail("the queue lost a chain: " + ring.queue->broken().ToString());
  }
  if (bytes != uint64_t{4000} * kBurst * kBufferBytes * descs) Fail("bytes were miscounted");
  std::nth_element(ns.begin(), ns.begin() + 2000, ns.end());
  return ns[2000];
}

struct Goal {
  int descs;
  double most_ns_a_descriptor;
};
// rust-vmm's virtio-queue 0.18 on this kind of machine.
constexpr Goal kGoals[] = {{1, 30}, {2, 21}, {4, 17}, {16, 15}};

bool RunAllChains(const Options& options) {
  const VirtioFeatures split = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc};
  const VirtioFeatures packed = split | VirtioFeatures{VirtioFeature::kRingPacked};
  bool met = true;
  std::printf(
      "chain of   split ns: chain  desc (min-max)      packed ns: chain  desc    goal: desc\n");
  for (const Goal& goal : kGoals) {
    std::vector<double> of_split;
    std::vector<double> of_packed;
    for (int round = 0; round < options.rounds; ++round) {
      of_split.push_back(RunChains<bench::SplitDriver>(split, goal.descs));
      of_packed.push_back(RunChains<bench::PackedDriver>(packed, goal.descs));
    }
    std::sort(of_split.begin(), of_split.end());
    std::sort(of_packed.begin(), of_packed.end());
    const double split_ns = of_split[of_split.size() / 2];
    const double packed_ns = of_packed[of_packed.size() / 2];
    std::printf("%8d   %15.1f %5.1f (%.1f-%.1f) %20.1f %5.1f %13.1f\n", goal.descs, split_ns,
                split_ns / goal.descs, of_split.front() / goal.descs, of_split.back() / goal.descs,
                packed_ns, packed_ns / goal.descs, goal.most_ns_a_descriptor);
    met = met && split_ns / goal.descs <= goal.most_ns_a_descriptor;
  }
  return met;
}

int Main(int argc, char** argv) {
  Options options;
  const std::string what = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool more = i + 1 < argc;
    if (argument == "--check") {
      options.check = true;
    } else if (argument == "--buffers" && more && absl::SimpleAtoi(argv[i + 1], &options.buffers)) {
      ++i;
    } else if (argument == "--rounds" && more && absl::SimpleAtoi(argv[i + 1], &options.rounds)) {
      ++i;
    } else if (argument == "--burst" && more && absl::SimpleAtoi(argv[i + 1], &options.burst)) {
      ++i;
    } else if (argument == "--cpus" && more) {
      const std::vector<std::string> cpus = absl::StrSplit(argv[++i], ',');
      if (cpus.size() != 2 || !absl::SimpleAtoi(cpus[0], &options.driver_cpu) ||
          !absl::SimpleAtoi(cpus[1], &options.device_cpu)) {
        Fail("--cpus DRIVER,DEVICE");
      }
    } else {
      options.kind = argument;
    }
  }
  if (what == "sink" && options.buffers > 0) {
    std::printf("%.1f\n", RunSinkOf(options));
    return 0;
  }
  if (what == "chains" && options.rounds > 0)
    return RunAllChains(options) || !options.check ? 0 : 1;
  Fail("sink RING or chains; see the top of its source");
}

}  // namespace
}  // namespace vhost::inprocess

int main(int argc, char** argv) { return vhost::inprocess::Main(argc, argv); }

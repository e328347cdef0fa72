// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the in-process net backend costs, beside the least that the same work takes: a loop of
// write(2) or read(2) on the TAP. Needs root or user namespaces, and /dev/net/tun.
//
//   bench_inprocess_net [--rounds N] [--check] [--only NAME]
//
// Costs are of one thread that does nothing else, per frame; frames go to an address that nobody
// has, so that the stack drops them early. Ours and the loop take turns. With --check the exit code
// is 1 if a goal is missed.
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/bench_pairs.h"
#include "tests/bench/net_queue_machine.h"
#include "vhost/inprocess/net_backend.h"

namespace vhost::bench {
namespace {

using inprocess::DataThread;
using inprocess::FlowMerge;
using inprocess::InProcessNetBackend;
using inprocess::InProcessNetOptions;

struct Bench {
  int rounds = 9;
  bool all_met = true;
  void Report(bool met) { all_met = all_met && met; }
};

// ---- (b) one frame, one write, or read ---------------------------------------------------------

// The same frames from memory of the same size, one write(2) each.
double RawWrites(const HostTap& tap, const std::vector<std::vector<std::byte>>& frames, int fills) {
  const uint64_t begin = ThreadCpuNs();
  for (int i = 0; i < fills; ++i) {
    for (const std::vector<std::byte>& frame : frames) {
      if (::write(tap.fd(), frame.data(), frame.size()) < 0) std::perror("bench: write");
    }
  }
  return static_cast<double>(ThreadCpuNs() - begin) / fills / static_cast<double>(frames.size());
}

void Transmit(Bench& bench) {
  struct Case {
    const char* what;
    size_t payload;
    uint16_t gso_size;
    double goal;
  };
  for (const Case& each : {Case{"TX 64 B", 10, 0, 0.90}, Case{"TX 1500 B", 1460, 0, 0.90},
                           Case{"TX 64 KiB GSO", 65'000, 1448, 0.97}}) {
    TransmitMachine machine("tapb", {});
    const auto frame = WithHeader(BenchSpec(each.payload, each.gso_size != 0), each.gso_size);
    machine.ring().FillAll(frame);
    const std::vector<std::vector<std::byte>> frames(kRing, frame);
    const int fills = each.gso_size != 0 ? 20 : 100;
    const Compared compared = InPairs(
        bench.rounds, [&] { return RawWrites(machine.tap(), frames, fills); },
        [&] { return machine.Ours(fills); });
    bench.Report(Tell(absl::StrCat("(b) ", each.what, ": write(2), ours"), compared, "ns",
                      1 / compared.ratio, each.goal, true));
  }
}

void Receive(Bench& bench) {
  struct Case {
    const char* what;
    size_t payload;
    uint16_t gso_size;
    bool mergeable;
    uint32_t buffer_bytes;
    double goal;
  };
  for (const Case& each :
       {Case{"RX 64 B", 10, 0, true, 1536, 0.90}, Case{"RX 1500 B", 1460, 0, true, 1536, 0.90},
        Case{"RX 64 B, not mergeable", 10, 0, false, 1536, 0.90},
        Case{"RX 64 KiB GSO", 65'000, 1448, false, 66'000, 0.97},
        Case{"RX 64 KiB GSO, mergeable 4 KiB", 65'000, 1448, true, 4096, 0.97}}) {
    ReceiveMachine machine("tapb", {.payload = each.payload,
                                    .gso_size = each.gso_size,
                                    .mergeable = each.mergeable,
                                    .buffer_bytes = each.buffer_bytes});
    const int fills = each.gso_size != 0 ? 40 : 100;
    const Compared compared = InPairs(
        bench.rounds, [&] { return machine.Raw(fills); }, [&] { return machine.Ours(fills); });
    bench.Report(Tell(absl::StrCat("(b) ", each.what, ": read(2), ours"), compared, "ns",
                      1 / compared.ratio, each.goal, true));
  }
}

// ---- I/O engines -------------------------------------------------------------------------------

// No goals: IoEngine::kAuto is what these tell.
void Engines(Bench& bench) {
  const auto tell = [](const std::string& what, const Compared& compared) {
    std::printf("%-44s %9.1f %9.1f ns   x%.3f (%.3f-%.3f)\n", what.c_str(), compared.a, compared.b,
                compared.ratio, compared.ratio_low, compared.ratio_high);
    std::fflush(stdout);
  };
  struct Case {
    const char* what;
    size_t payload;
    uint16_t gso_size;
  };
  for (const Case& each :
       {Case{"64 B", 10, 0}, Case{"1500 B", 1460, 0}, Case{"64 KiB GSO", 65'000, 1448}}) {
    const bool large = each.gso_size != 0;
    const auto frame = WithHeader(BenchSpec(each.payload, large), each.gso_size);
    TransmitMachine calls("tapc", {});
    TransmitMachine ring("tapr", {}, /*by_io_uring=*/true);
    calls.ring().FillAll(frame);
    ring.ring().FillAll(frame);
    const int fills = large ? 20 : 100;
    tell(absl::StrCat("TX ", each.what, ": system calls, io_uring"),
         InPairs(
             bench.rounds, [&] { return calls.Ours(fills); }, [&] { return ring.Ours(fills); }));
    ReceiveMachine::Options options{.payload = each.payload,
                                    .gso_size = each.gso_size,
                                    .mergeable = !large,
                                    .buffer_bytes = large ? 66'000U : 1536U};
    ReceiveMachine by_calls("taprc", options);
    options.by_io_uring = true;
    ReceiveMachine by_ring("taprr", options);
    tell(absl::StrCat("RX ", each.what, ": system calls, io_uring"),
         InPairs(
             bench.rounds, [&] { return by_calls.Ours(large ? 40 : 100); },
             [&] { return by_ring.Ours(large ? 40 : 100); }));
  }
}

// ---- (d) coalescing ----------------------------------------------------------------------------

void Coalescing(Bench& bench) {
  const FlowMerge::Kinds kinds{.tcp4 = true, .tcp6 = true, .udp4 = true, .udp6 = true};
  for (const bool partial : {true, false}) {
    for (const size_t payload : {size_t{10}, size_t{1448}}) {
      // Eight segments of one flow, then eight of another.
      const std::string what =
          absl::StrCat(payload, " B, checksum ", partial ? "left to us" : "in place");
      std::vector<std::vector<std::byte>> frames;
      TransmitMachine merging("tapm", kinds);
      for (uint16_t i = 0; i < kRing; ++i) {
        FrameSpec spec = BenchSpec(payload, partial);
        spec.source_port = static_cast<uint16_t>(i / 8);
        spec.sequence = static_cast<uint32_t>(i % 8 * payload);
        spec.id = i % 8;
        frames.push_back(WithHeader(spec));
        merging.ring().Fill(i, frames.back());
      }
      Compared compared = InPairs(
          bench.rounds, [&] { return RawWrites(merging.tap(), frames, 50); },
          [&] { return merging.Ours(50); });
      bench.Report(Tell(absl::StrCat("coalescing 8 x ", what), compared, "ns", 1 / compared.ratio,
                        2.0, true));

      TransmitMachine plain("tapp", {});
      for (uint16_t i = 0; i < kRing; ++i) {
        FrameSpec spec = BenchSpec(payload, partial);
        spec.source_port = i;
        const auto frame = WithHeader(spec);
        merging.ring().Fill(i, frame);
        plain.ring().Fill(i, frame);
      }
      compared = InPairs(
          bench.rounds, [&] { return plain.Ours(100); }, [&] { return merging.Ours(100); });
      bench.Report(Tell(absl::StrCat("nothing merges: ", what), compared, "ns", compared.ratio,
                        1.05, false));
    }
  }
}

// ---- (e) latency and idle time, (g) many devices, (h) memory -----------------------------------

// A device with one pair, as a VMM has it.
struct Device {
  Device(fakes::GuestRam& ram, const std::shared_ptr<const MemoryTable>& memory, int number,
         std::shared_ptr<DataThread> thread, uint16_t ring_size = kRing)
      : tap(TheKernel(), absl::StrCat("tapd", number)),
        rx(ram, ring_size, 1536, true),
        tx(ram, ring_size, 1536, false),
        rx_kick(OrDie(kernel_abi::EventFd::Create(TheKernel()))),
        tx_kick(OrDie(kernel_abi::EventFd::Create(TheKernel()))) {
    net = OrDie(InProcessNetBackend::Create(
        TheKernel(), InProcessNetOptions{.tap_fds = {tap.fd()}, .thread = std::move(thread)}));
    BackendStart start{.acked = kAcked | VirtioFeatures{VirtioFeature::kNetMrgRxbuf},
                       .memory = memory,
                       .vrings = {}};
    start.vrings.push_back(
        {.queue = 0, .vring = rx.vring(*memory), .kick_fd = rx_kick.get(), .call_fd = -1});
    start.vrings.push_back(
        {.queue = 1, .vring = tx.vring(*memory), .kick_fd = tx_kick.get(), .call_fd = -1});
    rx.Publish(ring_size);
    OrDie(net->Start(start));
  }
  HostTap tap;
  BenchRing rx;
  BenchRing tx;
  kernel_abi::EventFd rx_kick;
  kernel_abi::EventFd tx_kick;
  std::unique_ptr<InProcessNetBackend> net;
};

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Median ns from a kick to the frame being out, one outstanding.
double KickToUsed(const std::function<void()>& publish_and_kick,
                  const std::function<bool()>& is_out) {
  std::vector<double> each;
  for (int i = 0; i < 2000; ++i) {
    const uint64_t begin = NowNs();
    publish_and_kick();
    const uint64_t patience = begin + 100'000'000;
    while (!is_out() && NowNs() < patience) continue;
    each.push_back(static_cast<double>(NowNs() - begin));
  }
  return Quantile(each, 0.5);
}

void LatencyOf(Bench& bench, bool pinned) {
  fakes::GuestRam ram{16 << 20};
  const auto memory = ram.table();
  cpu_set_t before_pinning;
  sched_getaffinity(0, sizeof(before_pinning), &before_pinning);
  const auto pin = [](size_t cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    sched_setaffinity(0, sizeof(cpus), &cpus);
  };
  const bool can_pin = pinned && CPU_COUNT(&before_pinning) > 1 && CPU_ISSET(0, &before_pinning) &&
                       CPU_ISSET(1, &before_pinning);
  inprocess::DataThreadOptions thread_options{.name = "latency"};
  if (can_pin) thread_options.placement.cpus = {1};
  Device device(ram, memory, 0, OrDie(DataThread::Create(TheKernel(), thread_options)));
  const auto frame = WithHeader(BenchSpec(10, false));
  device.tx.FillAll(frame);

  // The peer: a thread that blocks in read(2) of an eventfd, and writes the frame.
  const HostTap tap(TheKernel(), "tapraw");
  const auto kick = OrDie(kernel_abi::EventFd::Create(TheKernel()));
  ::fcntl(kick.get(), F_SETFL, O_RDWR);
  std::atomic<uint64_t> out = 0;
  std::atomic<bool> stop = false;
  std::thread peer([&] {
    if (can_pin) pin(1);
    uint64_t count;
    while (::read(kick.get(), &count, sizeof(count)) > 0 && !stop) {
      if (::write(tap.fd(), frame.data(), frame.size()) < 0) std::perror("bench: write");
      ++out;
    }
  });
  if (can_pin) pin(0);
  const Compared compared = InPairs(
      bench.rounds,
      [&] {
        uint64_t before = out;
        return KickToUsed([&] { kick.Signal(); },
                          [&] { return out != before ? (before = out, true) : false; });
      },
      [&] {
        return KickToUsed(
            [&] {
              device.tx.Publish(1);
              if (device.tx.kick_wanted()) device.tx_kick.Signal();
            },
            [&] { return device.tx.all_used(); });
      });
  sched_setaffinity(0, sizeof(before_pinning), &before_pinning);
  stop = true;
  kick.Signal();
  peer.join();
  bench.Report(Tell(
      absl::StrCat("(e) kick to frame out", pinned ? "" : ", not pinned", ": blocking loop, ours"),
      compared, "ns", compared.ratio, 0.3, false));
  const DataThread::Stats stats = device.net->thread(0).stats();
  std::printf("    window %.1f us, wake cost %.1f us, sleeps %llu, preempted %llu\n",
              static_cast<double>(stats.window_ns) / 1e3,
              static_cast<double>(stats.wake_cost_ns) / 1e3,
              static_cast<unsigned long long>(stats.sleeps),
              static_cast<unsigned long long>(stats.preemptions));

  if (!pinned) return;
  // Quiet: one frame each way every 100 ms.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const uint64_t before = *device.net->Report().workers[0].cpu_time_ns;
  const uint64_t begin = NowNs();
  for (int i = 0; i < 20; ++i) {
    device.tx.Publish(1);
    if (device.tx.kick_wanted()) device.tx_kick.Signal();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const double share = static_cast<double>(*device.net->Report().workers[0].cpu_time_ns - before) /
                       static_cast<double>(NowNs() - begin) * 100;
  const bool met = share < 0.5;
  std::printf("(e) idle CPU of a quiet device: %.4f %%, goal < 0.5: %s\n", share,
              met ? "met" : "MISSED");
  bench.Report(met);
}

// The driver on one CPU, whoever serves it on another, as vCPUs and data threads are placed where
// latency counts; and where the scheduler likes.
void Latency(Bench& bench) {
  LatencyOf(bench, /*pinned=*/true);
  LatencyOf(bench, /*pinned=*/false);
}

void ManyDevices(Bench& bench) {
  constexpr int kDevices = 64;
  fakes::GuestRam ram{uint64_t{kDevices + 1} * (kRing * 2 * 1600 + (64 << 10))};
  const auto memory = ram.table();
  const auto frame = WithHeader(BenchSpec(10, false));
  std::shared_ptr<DataThread> one_thread = OrDie(DataThread::Create(TheKernel(), {.name = "one"}));
  std::shared_ptr<DataThread> thread = OrDie(DataThread::Create(TheKernel(), {.name = "many"}));
  auto one = std::make_unique<Device>(ram, memory, 100, one_thread);
  one->tx.FillAll(frame);
  std::vector<std::unique_ptr<Device>> many;
  for (int i = 0; i < kDevices; ++i) {
    many.push_back(std::make_unique<Device>(ram, memory, i, thread));
    many.back()->tx.FillAll(frame);
  }
  // CPU ns of the thread a frame, all rings filled again and again.
  const auto run = [](DataThread& on, std::span<Device* const> devices, int fills) {
    const uint64_t before = *on.Report().cpu_time_ns;
    for (int i = 0; i < fills; ++i) {
      for (Device* device : devices) {
        device->tx.Publish(kRing);
        if (device->tx.kick_wanted()) device->tx_kick.Signal();
      }
      for (Device* device : devices) {
        while (!device->tx.all_used()) std::this_thread::yield();
      }
    }
    return static_cast<double>(*on.Report().cpu_time_ns - before) / fills / kRing /
           static_cast<double>(devices.size());
  };
  std::vector<Device*> all;
  for (const auto& device : many) all.push_back(device.get());
  Device* const single[] = {one.get()};
  const Compared compared = InPairs(
      bench.rounds, [&] { return run(*one_thread, single, 128); },
      [&] { return run(*thread, all, 4); });
  bench.Report(Tell("(g) a frame: 1 device, 64 on one thread", compared, "ns", 1 / compared.ratio,
                    0.7, true));
}

uint64_t ResidentBytes() {
  unsigned long long total = 0;
  unsigned long long resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Of a device with its rings busy, beside the guest's memory, the TAP object and the bench's own.
double MemoryKib(bool shared_thread) {
  constexpr int kDevices = 32;
  constexpr uint64_t kRamBytes = uint64_t{kDevices + 1} * (kRing * 2 * 1600 + (64 << 10));
  fakes::GuestRam ram{kRamBytes};
  std::memset(ram.Host(GuestAddress{fakes::GuestRam::kDefaultStart}), 1, kRamBytes);
  const auto memory = ram.table();
  const auto frame = WithHeader(BenchSpec(10, false));
  std::shared_ptr<DataThread> thread;
  if (shared_thread) thread = OrDie(DataThread::Create(TheKernel(), {.name = "many"}));
  std::vector<std::unique_ptr<Device>> devices;
  uint64_t before = 0;
  for (int i = 0; i <= kDevices; ++i) {
    if (i == 1) before = ResidentBytes();  // The first warms what all share.
    devices.push_back(std::make_unique<Device>(ram, memory, i, thread));
    Device& device = *devices.back();
    device.tx.FillAll(frame);
    for (int fill = 0; fill < 4; ++fill) {
      device.tx.Publish(kRing);
      device.tx_kick.Signal();
      for (int f = 0; f < 50; ++f) device.tap.Send(frame);
      while (!device.tx.all_used()) std::this_thread::yield();
    }
  }
  return static_cast<double>(ResidentBytes() - before) / 1024 / kDevices;
}

void Memory(Bench& bench) {
  for (const bool shared : {false, true}) {
    // Each in a process of its own: memory that was freed before would be used again.
    std::fflush(stdout);
    const pid_t child = ::fork();
    if (child == 0) {
      const double kib = MemoryKib(shared);
      const bool met = kib <= 96;
      std::printf("(h) memory of a device, %s: %.1f KiB, goal <= 96: %s\n",
                  shared ? "on one thread" : "thread each", kib, met ? "met" : "MISSED");
      std::fflush(stdout);
      ::_exit(met ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    bench.Report(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
}

int Main(int argc, char** argv) {
  Bench bench;
  BenchOptions options{.rounds = bench.rounds};
  if (const auto code = ReadOptions(
          argc, argv, "bench_inprocess_net [--rounds N] [--check] [--only PART]", options)) {
    return *code;
  }
  bench.rounds = options.rounds;
  BePrivate();
  const std::pair<const char*, void (*)(Bench&)> parts[] = {
      {"transmit", Transmit},     {"receive", Receive}, {"engines", Engines},
      {"coalescing", Coalescing}, {"latency", Latency}, {"many", ManyDevices},
      {"memory", Memory}};
  bool any = false;
  for (const auto& [name, part] : parts) {
    if (!options.only.empty() && options.only != name) continue;
    part(bench);
    any = true;
  }
  if (!any) {
    std::fprintf(stderr, "bench_inprocess_net: there is no part '%s'\n", options.only.c_str());
    return 2;
  }
  return options.check && !bench.all_met ? 1 : 0;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) { return vhost::bench::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the control plane of one vhost-net queue pair costs, beside the bare sequence of the same
// requests: no checks, no undo, no reports, no library. Needs /dev/vhost-net and root (scripts/vm).
//
//   bench_control_plane [--rounds N] [--check]
//
// Each round does every step bare and by the library in turns, one right after the other, so that
// both meet the same machine. Told are medians with quartiles, and the ratio of each round's pair,
// which is what noise spoils least. With --check the exit code is 1 if a step
// took more than 1.1 times the bare one (median of the pairs), more than 18 requests were made for
// a bring-up, or closing 64 devices took more than 4 times closing one.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/bench/bare_net.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/counting_kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/host/tap.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

constexpr double kMostRatio = 1.1;
constexpr int kMostRequests = 18;
constexpr double kMostCloseRatio = 4;
constexpr int kManyDevices = 64;
// Of one measurement each: one alone is too short to time, and mostly tells how cold the caches
// are.
constexpr int kTableUpdates = 40;
constexpr int kUpdatesAtOnce = 20;
constexpr int kRestarts = 20;
constexpr int kBringUps = 8;
constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc,
                                   VirtioFeature::kEventIdx, VirtioFeature::kNetMrgRxbuf};

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "bench_control_plane: %s\n", value.status().ToString().c_str());
  std::exit(2);
}
void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_control_plane: %s\n", status.ToString().c_str());
  std::exit(2);
}

// Microseconds that `work` takes.
template <typename Work>
double Time(Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

// "1633.0 (1101.2, 1143.8-1695.9)".
std::string Spread(const std::vector<double>& values) {
  return absl::StrFormat("%.1f (%.1f, %.1f-%.1f)", Quantile(values, 0.5), Quantile(values, 0),
                         Quantile(values, 0.25), Quantile(values, 0.75));
}

struct Step {
  std::vector<double> bare_us, library_us;
  int bare_requests = 0, library_requests = 0;
};

// The same machine for both: RAM, rings, eventfds, a TAP.
struct Rig {
  Rig()
      : tap(OrDie(Tap::Create(kernel, {.name = "tapbench"}))),
        rings{fakes::DriverRing(ram, {.size = 256}), fakes::DriverRing(ram, {.size = 256})} {
    for (int i = 0; i < 4; ++i) event_fds.push_back(OrDie(kernel_abi::EventFd::Create(kernel)));
    start = {.acked = kAcked, .memory = Table(1, 0), .vrings = {}};
    for (int queue = 0; queue < 2; ++queue) {
      const auto i = static_cast<size_t>(queue);
      start.vrings.push_back(
          {.queue = queue,
           .vring = OrDie(Vring::Create(rings[i].setup(), VringLayout::kSplit, *start.memory)),
           .kick_fd = event_fds[2 * i].get(),
           .call_fd = event_fds[2 * i + 1].get()});
    }
  }

  // The RAM and `regions` - 1 more, at other addresses for every `variant`.
  std::shared_ptr<const MemoryTable> Table(int regions, int variant) const {
    std::vector<MemoryRegion> all = {ram.region()};
    for (int i = 1; i < regions; ++i) {
      all.push_back({.start = GuestAddress{0x1'0000'0000 + 0x10'0000ull * static_cast<uint64_t>(i)},
                     .size = 4096,
                     .host = more.region().host + (2 * i + variant) * 4096});
    }
    // One region cannot move while rings are in it: what varies is then a page behind it.
    if (regions == 1 && variant != 0) {
      return std::make_shared<const MemoryTable>(OrDie(
          MemoryTable::Create({{.start = ram.region().start,
                                .size = ram.region().size - 4096 * static_cast<uint64_t>(variant),
                                .host = ram.region().host}})));
    }
    return std::make_shared<const MemoryTable>(OrDie(MemoryTable::Create(std::move(all))));
  }

  CountingKernel kernel;
  // As a VMM makes it once for all of its devices.
  std::shared_ptr<const HostFacts> host = std::make_shared<const HostFacts>(kernel);
  fakes::GuestRam ram{1 << 20};
  fakes::GuestRam more{1 << 20, 0x8000'0000};
  std::unique_ptr<Tap> tap;
  fakes::DriverRing rings[2];
  std::vector<kernel_abi::EventFd> event_fds;
  BackendStart start;
};

class Bench {
 public:
  explicit Bench(int rounds) : rounds_(rounds) {}

  void Run() {
    for (int round = -1; round < rounds_; ++round) {  // The first is to warm up.
      if (round == 0) steps_.clear();
      Round();
    }
    for (int round = 0; round < std::max(3, rounds_ / 10); ++round) {
      close_us_[1].push_back(CloseMany(1));
      close_us_[kManyDevices].push_back(CloseMany(kManyDevices));
    }
  }

  // Prints all; whether it is within the goals.
  bool Report() const {
    bool good = true;
    std::printf("%-24s %9s  %-36s  %-36s  %s\n", "one queue pair", "requests",
                "bare us: median (min, p25-p75)", "library us: median (min, p25-p75)",
                "ratio of pairs: median (p25-p75), of minima");
    for (const std::string& name : order_) {
      const Step& step = steps_.at(name);
      std::vector<double> ratios;
      for (size_t i = 0; i < step.bare_us.size(); ++i) {
        ratios.push_back(step.library_us[i] / step.bare_us[i]);
      }
      const double ratio = Quantile(ratios, 0.5);
      const double of_minima = Quantile(step.library_us, 0) / Quantile(step.bare_us, 0);
      std::printf("%-24s %4d/%-4d  %-36s  %-36s  %.3f (%.3f-%.3f), %.3f%s\n", name.c_str(),
                  step.bare_requests, step.library_requests, Spread(step.bare_us).c_str(),
                  Spread(step.library_us).c_str(), ratio, Quantile(ratios, 0.25),
                  Quantile(ratios, 0.75), of_minima, ratio > kMostRatio ? "  ABOVE 1.1" : "");
      good = good && ratio <= kMostRatio;
    }
    const int requests = steps_.at("8 bring-ups").library_requests;
    if (requests > kMostRequests) {
      std::printf("bring-up: %d requests, ABOVE %d\n", requests, kMostRequests);
      good = false;
    }
    const double one = Quantile(close_us_.at(1), 0.5);
    const double many = Quantile(close_us_.at(kManyDevices), 0.5);
    std::printf("closing 1 device: %.1f ms; %d devices: %.1f ms; ratio %.2f%s\n", one / 1000,
                kManyDevices, many / 1000, many / one,
                many / one > kMostCloseRatio ? "  ABOVE 4" : "");
    return good && many / one <= kMostCloseRatio;
  }

 private:
  // Does `bare` and `library` `times` times in turns, so that whatever disturbs the machine
  // disturbs both, and notes what each took in all. Both return what one took, in microseconds. The
  // requests are those of all times, or of one.
  template <typename Work, typename OtherWork>
  void InTurns(const char* name, int times, bool requests_of_one, Work bare, OtherWork library) {
    if (std::find(order_.begin(), order_.end(), name) == order_.end()) order_.push_back(name);
    double us[2] = {};
    int requests[2] = {};
    for (int i = 0; i < 2 * times; ++i) {
      // bare library, library bare, ...
      const int who = (i + i / 2 + turn_) % 2;
      us[who] += who == 0 ? bare() : library();
      requests[who] += requests_;
    }
    ++turn_;
    const int of = requests_of_one ? times : 1;
    Step& step = steps_[name];
    step.bare_us.push_back(us[0]);
    step.library_us.push_back(us[1]);
    step.bare_requests = requests[0] / of;
    step.library_requests = requests[1] / of;
  }
  // Times `work` and counts its requests.
  template <typename Work>
  double Measure(Work work) {
    rig_.kernel.ResetCount();
    const double us = Time(work);
    requests_ = rig_.kernel.vhost_requests();
    return us;
  }

  // There is one TAP queue, so whoever is not measured stands still.
  void Round() {
    std::vector<std::unique_ptr<BareNet>> bares;
    std::vector<std::unique_ptr<NetBackend>> nets;
    InTurns(
        "8 bring-ups", kBringUps, /*requests_of_one=*/true,
        [&] {
          const double us = Measure([&] {
            bares.push_back(std::make_unique<BareNet>(rig_.kernel));
            bares.back()->Start(rig_.start, rig_.tap->fd(0), /*first_time=*/true);
          });
          bares.back()->Stop(rig_.start);
          return us;
        },
        [&] {
          const double us = Measure([&] {
            nets.push_back(MakeNet());
            OrDie(nets.back()->Start(rig_.start));
          });
          nets.back()->Stop();
          return us;
        });
    std::unique_ptr<BareNet> bare = std::move(bares.back());
    std::unique_ptr<NetBackend> net = std::move(nets.back());
    bares.clear();
    nets.clear();
    Updates(*bare, *net);
    const auto restart_bare = [&] { bare->Start(rig_.start, rig_.tap->fd(0), false); };
    InTurns(
        "20 resets and restarts", kRestarts, false,
        [&] {
          restart_bare();
          const double us = Measure([&] {
            bare->Stop(rig_.start);
            restart_bare();
          });
          bare->Stop(rig_.start);
          return us;
        },
        [&] {
          OrDie(net->Start(rig_.start));
          const double us = Measure([&] {
            net->Stop();
            OrDie(net->Start(rig_.start));
          });
          net->Stop();
          return us;
        });
    InTurns(
        "tear-down", 1, false,
        [&] {
          restart_bare();
          return Measure([&] {
            bare->Stop(rig_.start);
            bare.reset();
          });
        },
        [&] {
          OrDie(net->Start(rig_.start));
          return Measure([&] {
            net->Stop();
            net.reset();
          });
        });
  }

  // Alternates between two tables of a size while the rings are served.
  void Updates(BareNet& bare, NetBackend& net) {
    static const std::map<int, const char*> kNames = {{1, "40 updates, 1 region"},
                                                      {32, "40 updates, 32 regions"},
                                                      {64, "40 updates, 64 regions"}};
    for (const auto& [regions, name] : kNames) {
      auto& tables = tables_[regions];
      if (tables.empty()) tables = {rig_.Table(regions, 1), rig_.Table(regions, 0)};
      InTurns(
          name, kTableUpdates / kUpdatesAtOnce, false,
          [&] {
            bare.Start(rig_.start, rig_.tap->fd(0), /*first_time=*/false);
            const double us = Measure([&] {
              for (int i = 0; i < kUpdatesAtOnce; ++i)
                bare.SetMemory(*tables[static_cast<size_t>(i % 2)]);
            });
            bare.Stop(rig_.start);
            return us;
          },
          [&] {
            OrDie(net.Start(rig_.start));
            // The second table of one region is the one that it has.
            const double us = Measure([&] {
              for (int i = 0; i < kUpdatesAtOnce; ++i)
                OrDie(net.SetMemory(tables[static_cast<size_t>(i % 2)]));
            });
            net.Stop();
            return us;
          });
    }
  }

  std::unique_ptr<NetBackend> MakeNet() {
    return OrDie(NetBackend::Create(
        rig_.kernel, NetBackendOptions{
                         .tap_fds = rig_.tap->fds(), .taps_are_checked = true, .host = rig_.host}));
  }

  // Closing devices that have been in service; all at once.
  double CloseMany(int devices) {
    std::vector<std::unique_ptr<NetBackend>> all;
    std::vector<kernel_abi::UniqueFd> fds;
    for (int i = 0; i < devices; ++i) {
      all.push_back(MakeNet());
      OrDie(all.back()->Start(rig_.start));
      all.back()->Stop();
    }
    for (auto& net : all) {
      for (kernel_abi::UniqueFd& fd : net->ReleaseFds()) fds.push_back(std::move(fd));
    }
    return Time([&] { kernel_abi::CloseInParallel(std::move(fds)); });
  }

  Rig rig_;
  int rounds_;
  int turn_ = 0;
  int requests_ = 0;  // of the last measurement
  std::map<int, std::vector<std::shared_ptr<const MemoryTable>>> tables_;
  std::vector<std::string> order_;
  std::map<std::string, Step> steps_;
  std::map<int, std::vector<double>> close_us_;
};

int Main(int argc, char** argv) {
  bench::BenchOptions options{.rounds = 31};
  if (const auto code =
          bench::ReadOptions(argc, argv, "bench_control_plane [--rounds N] [--check]", options)) {
    return *code;
  }
  if (::access(kernel_abi::kVhostNetPath, R_OK | W_OK) != 0) {
    std::printf("skipped: no %s (run it by scripts/vm)\n", kernel_abi::kVhostNetPath);
    return options.check ? 77 : 0;  // a skip, to who looks at the code
  }
  // A TAP of the machine's own namespace is nobody's business.
  if (::unshare(CLONE_NEWNET) != 0) {
    std::fprintf(stderr, "bench_control_plane: no network namespace of our own; needs root\n");
    return 2;
  }
  Bench bench(std::max(3, options.rounds));
  bench.Run();
  return bench.Report() || !options.check ? 0 : 1;
}

}  // namespace
}  // namespace vhost

int main(int argc, char** argv) { return vhost::Main(argc, argv); }

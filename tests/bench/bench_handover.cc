// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For how long a handover of one network queue pair between vhost-net and this process stops the
// rings, beside the bare requests that stop and start vhost: backends off, bases asked for, all set
// again, a kick and a call. Needs /dev/vhost-net and root (scripts/vm).
//
//   bench_handover [--rounds N] [--check]
//
// Each round is one bare stop and start, one handover to this process and one back, in turns first.
// Told are medians and 99th percentiles, and their ratios. With --check the exit code is 1 if a
// direction is beyond 1.25 times the bare median, or 3 times its 99th percentile.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/bare_net.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/counting_kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/device/backend_selector.h"
#include "vhost/host/tap.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/kernel/net_backend.h"

namespace vhost {
namespace {

constexpr double kMostRatio = 1.25;
constexpr double kMostP99Ratio = 3;
constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kIndirectDesc,
                                   VirtioFeature::kEventIdx, VirtioFeature::kNetMrgRxbuf};

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_handover: %s\n", status.ToString().c_str());
  std::exit(2);
}
template <typename T>
T OrDie(absl::StatusOr<T> value) {
  OrDie(value.status());
  return *std::move(value);
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

class Bench {
 public:
  Bench() {
    for (int i = 0; i < 4; ++i) {
      event_fds_.push_back(OrDie(kernel_abi::EventFd::Create(kernel_)));
    }
    std::vector<MemoryRegion> regions = {ram_.region()};
    start_ = {.acked = kAcked,
              .memory = std::make_shared<const MemoryTable>(
                  OrDie(MemoryTable::Create(std::move(regions)))),
              .vrings = {}};
    for (int queue = 0; queue < 2; ++queue) {
      const auto i = static_cast<size_t>(queue);
      start_.vrings.push_back(
          {.queue = queue,
           .vring = OrDie(Vring::Create(rings_[i].setup(), VringLayout::kSplit, *start_.memory)),
           .kick_fd = event_fds_[2 * i].get(),
           .call_fd = event_fds_[2 * i + 1].get()});
    }
    OrDie(tap_->SetHeaderBytes(NetBackend::HeaderBytes(kAcked)));
    auto kernel = OrDie(NetBackend::Create(
        kernel_, NetBackendOptions{.tap_fds = tap_->fds(),
                                   .taps_are_checked = true,
                                   .host = std::make_shared<const HostFacts>(kernel_)}));
    auto process = OrDie(inprocess::InProcessNetBackend::Create(
        kernel_, inprocess::InProcessNetOptions{.tap_fds = tap_->fds()}));
    std::vector<BackendCandidate> candidates;
    candidates.push_back({BackendKind::kKernel, std::move(kernel)});
    candidates.push_back({BackendKind::kInProcess, std::move(process)});
    selector_ = std::make_unique<BackendSelector>(
        OrDie(BackendSelector::Create(OffloadPolicy::kPrefer, std::move(candidates))));
  }

  void Run(int rounds) {
    for (int round = -10; round < rounds; ++round) {
      if (round == 0) us_.clear();
      if (round % 2 == 0) {
        Bare();
        Handovers();
      } else {
        Handovers();
        Bare();
      }
    }
  }

  bool Report() const {
    bool good = true;
    const std::vector<double>& bare = us_.at("bare stop and start");
    for (const auto& [name, us] : us_) {
      const double ratio = Quantile(us, 0.5) / Quantile(bare, 0.5);
      const double p99_ratio = Quantile(us, 0.99) / Quantile(bare, 0.99);
      const bool is_good = ratio <= kMostRatio && p99_ratio <= kMostP99Ratio;
      std::printf(
          "%-22s median %8.1f us (p25-p75 %.1f-%.1f)  p99 %8.1f us  ratio %.3f  of p99 "
          "%.3f%s\n",
          name.c_str(), Quantile(us, 0.5), Quantile(us, 0.25), Quantile(us, 0.75),
          Quantile(us, 0.99), ratio, p99_ratio, is_good ? "" : "  BEYOND THE GOAL");
      good = good && is_good;
    }
    return good;
  }

 private:
  void Bare() {
    // With its own node, which has the TAP while the library's does not.
    if (bare_ == nullptr) {
      bare_ = std::make_unique<BareNet>(kernel_);
      bare_->Start(start_, tap_->fd(0), /*first_time=*/true);
    } else {
      bare_->Start(start_, tap_->fd(0), /*first_time=*/false);
    }
    const auto before = std::chrono::steady_clock::now();
    bare_->Stop(start_);
    bare_->Start(start_, tap_->fd(0), /*first_time=*/false);
    const std::chrono::duration<double, std::micro> us = std::chrono::steady_clock::now() - before;
    us_["bare stop and start"].push_back(us.count());
    bare_->Stop(start_);
  }

  void Handovers() {
    OrDie(selector_->Start(start_, BackendKind::kKernel));
    Move(BackendKind::kInProcess, "kernel to in-process");
    Move(BackendKind::kKernel, "in-process to kernel");
    selector_->Stop();
  }
  void Move(BackendKind to, const char* name) {
    BackendStart start = start_;
    const BackendSelector::Moved moved =
        selector_->MoveTo(*OrDie(selector_->Find(to)), start, start_.memory, "bench");
    OrDie(moved.status);
    us_[name].push_back(static_cast<double>(moved.stopped_us.value_or(0)));
  }

  CountingKernel kernel_;
  fakes::GuestRam ram_{1 << 20};
  std::unique_ptr<Tap> tap_ = OrDie(Tap::Create(kernel_, {.name = "tapbench"}));
  fakes::DriverRing rings_[2] = {fakes::DriverRing(ram_, {.size = 256}),
                                 fakes::DriverRing(ram_, {.size = 256})};
  std::vector<kernel_abi::EventFd> event_fds_;
  BackendStart start_;
  std::unique_ptr<BackendSelector> selector_;
  std::unique_ptr<BareNet> bare_;
  std::map<std::string, std::vector<double>> us_;
};

}  // namespace
}  // namespace vhost

int main(int argc, char** argv) {
  vhost::bench::BenchOptions options{.rounds = 500};
  if (const auto code =
          vhost::bench::ReadOptions(argc, argv, "bench_handover [--rounds N] [--check]", options)) {
    return *code;
  }
  vhost::Bench bench;
  bench.Run(options.rounds);
  const bool good = bench.Report();
  return options.check && !good ? 1 : 0;
}

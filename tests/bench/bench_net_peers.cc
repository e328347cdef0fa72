// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The in-process net backend beside vhost-net, without a guest: one driver, one pair of rings and
// one TAP, served by the one and by the other in turns. Needs /dev/vhost-net and root (scripts/vm).
//
//   bench_net_peers [--rounds N] [--check] [--only SUBSTRING]
//
// Told is what a frame takes by the clock, as the driver sees it: wake-ups and interrupts count.
// Transmit: the ring is never empty; the driver sleeps until half of it was used and fills it
// again. Frames go to an address that nobody has. Receive: frames are sent into the TAP while there
// are no buffers; the clock runs from the kick that brings buffers to the interrupt for the last.
// The goal is of packets per second: at least 0.85 of vhost-net's. vhost-net sends in batches only
// if the TAP's send buffer is unlimited, which the library does not have by default (vhost/host/
// tap.h says why); both are measured, and so is this process on the same TAP.
// With --check the exit code is 1 if a goal is missed.
#include <poll.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/tun.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/bench_pairs.h"
#include "tests/bench/net_bench_machine.h"
#include "vhost/inprocess/net_backend.h"
#include "vhost/kernel/net_backend.h"

namespace vhost::bench {
namespace {

constexpr double kGoal = 0.85;
constexpr uint16_t kRing = 256;
using enum VirtioFeature;
constexpr VirtioFeatures kAcked = {kVersion1,     kIndirectDesc, kEventIdx,    kNetMrgRxbuf,
                                   kNetCsum,      kNetHostTso4,  kNetHostTso6, kNetGuestCsum,
                                   kNetGuestTso4, kNetGuestTso6};

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

struct Case {
  const char* what;
  bool transmit;
  size_t payload;
  uint16_t gso_size;
  uint32_t buffer_bytes;  // receive
  uint16_t frames;        // of a fill of the TAP
  int fills;
  int sndbuf_bytes = kDefaultSndbufBytes;
};
constexpr Case kCases[] = {
    {"TX 64 B", true, 10, 0, 0, 0, 40},
    {"TX 1500 B", true, 1460, 0, 0, 0, 40},
    {"TX 64 KiB GSO", true, 65'000, 1448, 0, 0, 4},
    {"TX 64 B, vhost-net in batches", true, 10, 0, 0, 0, 40, kUnlimitedSndbuf},
    {"TX 1500 B, vhost-net in batches", true, 1460, 0, 0, 0, 40, kUnlimitedSndbuf},
    {"RX 64 B", false, 10, 0, 1536, 250, 40},
    {"RX 1500 B", false, 1460, 0, 1536, 250, 40},
    {"RX 64 KiB GSO, buffers of 4 KiB", false, 65'000, 1448, 4096, 14, 40},
};

class Machine {
 public:
  explicit Machine(const Case& each)
      : case_(each),
        ram_((uint64_t{each.buffer_bytes} + 66'000 + 256) * kRing + (1 << 20)),
        frame_(WithHeader(
            {.dont_fragment = true, .payload = each.payload, .partial = each.gso_size != 0},
            each.gso_size)),
        rx_(ram_, kRing, each.transmit ? 1536 : each.buffer_bytes, true),
        tx_(ram_, kRing, static_cast<uint32_t>(frame_.size()), false) {
    kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
    OrDie(tap_.tap->SetHeaderBytes(NetBackend::HeaderBytes(kAcked)));
    int sndbuf = each.sndbuf_bytes;
    OrDie(kernel_abi::Call({kernel, tap_.fd(), "tap"}, kernel_abi::kTunSetSndBuf, sndbuf).status());
    tx_.FillAll(frame_);
    for (int i = 0; i < 4; ++i) event_fds_.push_back(OrDie(kernel_abi::EventFd::Create(kernel)));
    start_ = {.acked = kAcked, .memory = ram_.table(), .vrings = {}};
    start_.vrings.push_back({.queue = 0,
                             .vring = rx_.vring(*start_.memory),
                             .kick_fd = event_fds_[0].get(),
                             .call_fd = event_fds_[1].get()});
    start_.vrings.push_back({.queue = 1,
                             .vring = tx_.vring(*start_.memory),
                             .kick_fd = event_fds_[2].get(),
                             .call_fd = event_fds_[3].get()});
    kernel_backend_ =
        OrDie(NetBackend::Create(kernel, NetBackendOptions{.tap_fds = tap_.tap->fds()}));
    process_backend_ = OrDie(inprocess::InProcessNetBackend::Create(
        kernel, inprocess::InProcessNetOptions{.tap_fds = tap_.tap->fds()}));
  }
  double Kernel() { return Served(*kernel_backend_); }
  double Process() { return Served(*process_backend_); }

 private:
  // ns a frame.
  double Served(Backend& backend) {
    OrDie(backend.Start(start_));
    if (case_.transmit) {
      Transmit(2);  // warms
    } else {
      Receive(2);
    }
    const double ns = case_.transmit ? Transmit(case_.fills) : Receive(case_.fills);
    for (const StoppedVring& stopped : backend.Stop()) {
      start_.vrings[static_cast<size_t>(stopped.queue)].base = stopped.base;
    }
    return ns;
  }

  static void Publish(BenchRing& ring, uint16_t count, const kernel_abi::EventFd& kick) {
    ring.Publish(count);
    if (ring.kick_wanted_for(count)) kick.Signal();
  }
  // Sleeps until at most `left` chains are under way.
  void Wait(const BenchRing& ring, uint16_t left, const kernel_abi::EventFd& call) const {
    const auto under_way = [&] { return static_cast<uint16_t>(ring.available() - ring.used()); };
    while (under_way() > left) {
      ring.CallWhenUsed(static_cast<uint16_t>(ring.available() - left - 1));
      if (under_way() <= left) return;
      pollfd ready{.fd = call.get(), .events = POLLIN, .revents = 0};
      if (::poll(&ready, 1, 10'000) == 0) {
        std::fprintf(stderr, "bench: no interrupt in 10 s (%s, %d under way)\n", case_.what,
                     under_way());
        std::exit(2);
      }
      call.Drain();
    }
  }

  double Transmit(int fills) {
    constexpr uint16_t kHalf = kRing / 2;
    const kernel_abi::EventFd& kick = event_fds_[2];
    const kernel_abi::EventFd& call = event_fds_[3];
    const uint64_t begin = NowNs();
    Publish(tx_, kHalf, kick);
    for (int half = 1; half < 2 * fills; ++half) {
      Publish(tx_, kHalf, kick);
      Wait(tx_, kHalf, call);
    }
    Wait(tx_, 0, call);
    return static_cast<double>(NowNs() - begin) / fills / kRing;
  }

  double Receive(int fills) {
    const kernel_abi::EventFd& kick = event_fds_[0];
    const kernel_abi::EventFd& call = event_fds_[1];
    const size_t each = frame_.size();
    const auto buffers = static_cast<uint16_t>(
        case_.frames * ((each + case_.buffer_bytes - 1) / case_.buffer_bytes));
    uint64_t ns = 0;
    for (int i = 0; i < fills; ++i) {
      for (int f = 0; f < case_.frames; ++f) tap_.Send(frame_);
      const uint64_t begin = NowNs();
      Publish(rx_, buffers, kick);
      Wait(rx_, 0, call);
      ns += NowNs() - begin;
    }
    return static_cast<double>(ns) / fills / case_.frames;
  }

  const Case& case_;
  fakes::GuestRam ram_;
  const std::vector<std::byte> frame_;
  BenchRing rx_;
  BenchRing tx_;
  HostTap tap_{kernel_abi::LinuxKernel(), "tappeer",
               kernel_abi::kTunFCsum | kernel_abi::kTunFTso4 | kernel_abi::kTunFTso6};
  std::vector<kernel_abi::EventFd> event_fds_;
  BackendStart start_;
  std::unique_ptr<NetBackend> kernel_backend_;
  std::unique_ptr<inprocess::InProcessNetBackend> process_backend_;
};

int Main(int argc, char** argv) {
  BenchOptions options;
  if (const auto code = ReadOptions(
          argc, argv, "bench_net_peers [--rounds N] [--check] [--only SUBSTRING]", options)) {
    return *code;
  }
  BePrivate();
  bool any = false;
  bool all_met = true;
  for (const Case& each : kCases) {
    if (std::string(each.what).find(options.only) == std::string::npos) continue;
    any = true;
    Machine machine(each);
    const Compared compared = InPairs(
        options.rounds, [&] { return machine.Kernel(); }, [&] { return machine.Process(); });
    const bool met = Tell(absl::StrCat(each.what, ": vhost-net, ours"), compared, "ns",
                          1 / compared.ratio, kGoal, true);
    all_met = all_met && met;
  }
  if (!any) {
    std::fprintf(stderr, "bench_net_peers: no case is named like '%s'\n", options.only.c_str());
    return 2;
  }
  return options.check && !all_met ? 1 : 0;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) { return vhost::bench::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What in-process vsock costs beside a bare unix stream socket that carries the same bytes.
//
//   bench_vsock [--rounds N] [--mib N] [--check]
//
// The driver, the device and the host's process take turns on one thread, so that nothing is
// measured but the work: 64 KiB at a time, into or out of buffers like Linux's (packets of 64 KiB
// to the host, receive buffers of 4 KiB from it). The bare socket is written from and read into the
// same number of bytes of memory. Then all three on threads of their own, where waking each other
// counts too. Each round does all in turns, and every other round the other way about. Told are
// medians with quartiles, and the ratio of each round's pair. With --check the exit code is 1 if a
// direction on one thread is below 0.6 of the bare socket (median of the pairs).
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

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

#include "absl/strings/str_format.h"
#include "kernel-abi/unique_fd.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/vsock_bench_guest.h"
#include "vhost/inprocess/vsock_backend.h"
#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {
namespace {

using bench::Die;
using bench::kCid;
using bench::kPacket;
using bench::kTransmitSlots;
using bench::kVsockAcked;
using bench::MibPerSecond;
using bench::OrDie;
using bench::Quantile;
using bench::ReadAll;
using bench::VsockGuest;
using bench::VsockThreads;
using bench::WriteAll;
using kernel_abi::LinuxKernel;
using kernel_abi::UniqueFd;

constexpr double kLeastRatio = 0.6;

std::string Folder() {
  static const std::string folder = [] {
    char name[] = "/tmp/bench_vsock.XXXXXX";
    const char* made = mkdtemp(name);
    if (made == nullptr) Die("mkdtemp");
    return std::string(made);
  }();
  return folder;
}

UniqueFd Listener() { return bench::ListenAt(Folder() + "/v.sock_52"); }

// ---- The bare socket ---------------------------------------------------------------------------

struct Bare {
  Bare() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) Die("socketpair");
    a = UniqueFd(fds[0]);
    b = UniqueFd(fds[1]);
    memory.resize(size_t{kTransmitSlots} * kPacket);
    other.resize(kPacket);
  }
  void OneThread(size_t bytes, bool to_host) {
    for (size_t done = 0; done < bytes; done += kPacket) {
      std::byte* slot = memory.data() + done % memory.size();
      WriteAll(a.get(), to_host ? slot : other.data(), kPacket);
      ReadAll(b.get(), to_host ? other.data() : slot, kPacket);
    }
  }
  void Threads(size_t bytes) {
    std::thread reader([&] {
      for (size_t done = 0; done < bytes; done += kPacket) {
        ReadAll(b.get(), other.data(), kPacket);
      }
    });
    for (size_t done = 0; done < bytes; done += kPacket) {
      WriteAll(a.get(), memory.data() + done % memory.size(), kPacket);
    }
    reader.join();
  }
  UniqueFd a, b;
  std::vector<std::byte> memory, other;
};

class OneThread {
 public:
  OneThread() {
    mux_ = OrDie(VsockMux::Create({.guest_cid = kCid},
                                  OrDie(VsockHost::Create({.uds_path = Folder() + "/v.sock"}))));
    for (int queue : {0, 1}) {
      rings_[queue] = Virtqueue::Create(LinuxKernel(), guest_.VringOf(queue).vring, 0, kVsockAcked,
                                        guest_.table(), -1);
    }
    mux_->Attach(rings_[0].get(), rings_[1].get(), false);
    guest_.Connect([&] { Run(); });
  }
  void ToHost(size_t bytes) {
    for (size_t done = 0; done < bytes; done += kPacket) {
      while (guest_.credit() < kPacket) {
        Run();
        guest_.Receive();
      }
      while (!guest_.Send(kernel_abi::kVsockOpRw, kPacket)) Run();
      Run();
      ReadAll(guest_.host_fd(), guest_.host_memory(), kPacket);
    }
  }
  void ToGuest(size_t bytes) {
    for (size_t done = 0; done < bytes; done += kPacket) {
      const uint32_t end = guest_.received + kPacket;
      WriteAll(guest_.host_fd(), guest_.host_memory(), kPacket);
      while (guest_.received != end) {
        Run();
        guest_.Receive();
      }
    }
  }

 private:
  void Run() {
    mux_->NoteEvents();
    mux_->Poll();
  }
  VsockGuest guest_{Listener()};
  std::unique_ptr<VsockMux> mux_;
  std::unique_ptr<Virtqueue> rings_[2];
};

struct Row {
  const char* what;
  std::vector<double> ours, bare;
  void Print() const {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / bare[i]);
    std::printf("%-24s %8.0f (%.0f-%.0f)   %8.0f (%.0f-%.0f)   %.2f (%.2f-%.2f)\n", what,
                Quantile(ours, 0.5), Quantile(ours, 0.25), Quantile(ours, 0.75),
                Quantile(bare, 0.5), Quantile(bare, 0.25), Quantile(bare, 0.75),
                Quantile(ratios, 0.5), Quantile(ratios, 0.25), Quantile(ratios, 0.75));
  }
  double ratio() const {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / bare[i]);
    return Quantile(ratios, 0.5);
  }
};

// One pair, the first of the two first in even rounds.
template <typename Ours, typename Other>
void Measure(Row& row, int round, size_t bytes, Ours ours, Other bare) {
  if (round % 2 == 0) row.ours.push_back(MibPerSecond(bytes, ours));
  row.bare.push_back(MibPerSecond(bytes, bare));
  if (round % 2 != 0) row.ours.push_back(MibPerSecond(bytes, ours));
}

int Main(int rounds, size_t bytes, bool check) {
  Row rows[] = {{"to host, one thread", {}, {}},
                {"to guest, one thread", {}, {}},
                {"to host, threads", {}, {}},
                {"to guest, threads", {}, {}}};
  Bare bare;
  {
    OneThread one;
    for (int round = -1; round < rounds; ++round) {  // the first warms up
      Row warm{"", {}, {}};
      Measure(
          round < 0 ? warm : rows[0], round & 1, bytes, [&] { one.ToHost(bytes); },
          [&] { bare.OneThread(bytes, true); });
      Measure(
          round < 0 ? warm : rows[1], round & 1, bytes, [&] { one.ToGuest(bytes); },
          [&] { bare.OneThread(bytes, false); });
    }
  }
  {
    VsockThreads threads(
        OrDie(InProcessVsockBackend::Create(
            LinuxKernel(), {.guest_cid = kCid, .host = {.uds_path = Folder() + "/v.sock"}})),
        Listener());
    for (int round = -1; round < rounds; ++round) {
      Row warm{"", {}, {}};
      Measure(
          round < 0 ? warm : rows[2], round & 1, bytes, [&] { threads.ToHost(bytes, kPacket); },
          [&] { bare.Threads(bytes); });
      Measure(
          round < 0 ? warm : rows[3], round & 1, bytes, [&] { threads.ToGuest(bytes, kPacket); },
          [&] { bare.Threads(bytes); });
    }
  }
  std::printf("%-24s %-21s   %-21s   %s\n", "64 KiB, MiB/s", "vsock in-process", "unix stream",
              "ratio of pairs");
  for (const Row& row : rows) row.Print();
  rmdir(Folder().c_str());
  return check && std::min(rows[0].ratio(), rows[1].ratio()) < kLeastRatio ? 1 : 0;
}

}  // namespace
}  // namespace vhost::inprocess

int main(int argc, char** argv) {
  vhost::bench::BenchOptions options{.mib = 512};
  if (const auto code = vhost::bench::ReadOptions(
          argc, argv, "bench_vsock [--rounds N] [--mib N] [--check]", options)) {
    return *code;
  }
  return vhost::inprocess::Main(options.rounds, static_cast<size_t>(options.mib) << 20,
                                options.check);
}

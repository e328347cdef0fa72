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
#include "kernel-abi/event_fd.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "vhost/inprocess/vsock_backend.h"
#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {
namespace {

using Header = fakes::VsockDriver::Header;
using kernel_abi::EventFd;
using kernel_abi::LinuxKernel;
using kernel_abi::UniqueFd;

constexpr double kLeastRatio = 0.6;
constexpr uint64_t kCid = 3;
constexpr uint32_t kPacket = 64 * 1024;
constexpr uint16_t kReceiveBuffers = 128;
constexpr uint16_t kTransmitSlots = 16;
constexpr uint32_t kGuestBuffer = 256 * 1024;
constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1, VirtioFeature::kEventIdx};

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "bench_vsock: %s\n", why.c_str());
  std::exit(2);
}
template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  Die(value.status().ToString());
}

template <typename Work>
double MibPerSecond(size_t bytes, Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return static_cast<double>(bytes) / (1 << 20) / took.count();
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

std::string Folder() {
  static const std::string folder = [] {
    char name[] = "/tmp/bench_vsock.XXXXXX";
    const char* made = mkdtemp(name);
    if (made == nullptr) Die("mkdtemp");
    return std::string(made);
  }();
  return folder;
}

void ReadAll(int fd, std::byte* into, size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = recv(fd, into, bytes, 0);
    if (count <= 0) Die("recv");
    bytes -= static_cast<size_t>(count);
  }
}
void WriteAll(int fd, const std::byte* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = send(fd, from, bytes, MSG_NOSIGNAL);
    if (count <= 0) Die("send");
    from += count;
    bytes -= static_cast<size_t>(count);
  }
}

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

// ---- A guest -----------------------------------------------------------------------------------

// One connection of a guest, and the host's end of it.
class Guest {
 public:
  Guest()
      : driver(ram_, {.cid = kCid,
                      .receive_size = kReceiveBuffers,
                      .transmit_size = kTransmitSlots,
                      .event_idx = true}) {
    memory_.resize(kPacket);
    listener_ =
        std::make_unique<UnixListener>(OrDie(UnixListener::Create(Folder() + "/v.sock_52")));
  }

  BackendVring VringOf(int queue, int kick_fd = -1, int call_fd = -1) {
    const VringSetup& setup = queue == 0 ? driver.receive().setup() : driver.transmit().setup();
    return {.queue = queue,
            .vring = OrDie(Vring::Create(setup, VringLayout::kSplit, *table_)),
            .kick_fd = kick_fd,
            .call_fd = call_fd};
  }
  const std::shared_ptr<const MemoryTable>& table() const { return table_; }

  template <typename Run>
  void Connect(Run run) {
    Send(kernel_abi::kVsockOpRequest, 0);
    Header header{};
    while (!driver.ReceiveInPlace(header)) run();
    if (header.op != kernel_abi::kVsockOpResponse) Die("not connected");
    Note(header);
    host_ = UniqueFd(accept4(listener_->fd(), nullptr, nullptr, 0));
    if (!host_.valid()) Die("accept");
  }
  bool Send(uint16_t op, uint32_t length) {
    Header header{};
    header.src_cid = kCid;
    header.dst_cid = kernel_abi::kVsockHostCid;
    header.src_port = 1024;
    header.dst_port = 52;
    header.len = length;
    header.type = kernel_abi::kVsockTypeStream;
    header.op = op;
    header.buf_alloc = kGuestBuffer;
    header.fwd_cnt = received;
    if (!driver.SendInPlace(header, length)) return false;
    sent += length;
    told_ = received;
    return true;
  }
  uint32_t credit() const { return peer_buffer_ - (sent - peer_forwarded_); }
  // Takes what came, and gives credit back for it. False if nothing came.
  bool Receive() {
    bool any = false;
    Header header{};
    while (driver.ReceiveInPlace(header)) {
      any = true;
      Note(header);
    }
    if (received - told_ >= kGuestBuffer / 4) Send(kernel_abi::kVsockOpCreditUpdate, 0);
    return any;
  }
  int host_fd() const { return host_.get(); }
  std::byte* host_memory() { return memory_.data(); }

  fakes::VsockDriver& ring() { return driver; }
  uint32_t received = 0;
  uint32_t sent = 0;

 private:
  void Note(const Header& header) {
    if (header.op == kernel_abi::kVsockOpRst) Die("the connection was reset");
    if (header.op == kernel_abi::kVsockOpRw) received += header.len;
    peer_buffer_ = header.buf_alloc;
    peer_forwarded_ = header.fwd_cnt;
  }

  fakes::GuestRam ram_{uint64_t{16} << 20};
  const std::shared_ptr<const MemoryTable> table_ = ram_.table();
  std::vector<std::byte> memory_;
  std::unique_ptr<UnixListener> listener_;
  UniqueFd host_;
  uint32_t told_ = 0;
  uint32_t peer_buffer_ = 0;
  uint32_t peer_forwarded_ = 0;

 public:
  fakes::VsockDriver driver;
};

class OneThread {
 public:
  OneThread() {
    mux_ = OrDie(VsockMux::Create({.guest_cid = kCid},
                                  OrDie(VsockHost::Create({.uds_path = Folder() + "/v.sock"}))));
    for (int queue : {0, 1}) {
      rings_[queue] = Virtqueue::Create(LinuxKernel(), guest_.VringOf(queue).vring, 0, kAcked,
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
  Guest guest_;
  std::unique_ptr<VsockMux> mux_;
  std::unique_ptr<Virtqueue> rings_[2];
};

class Threads {
 public:
  Threads() {
    backend_ = OrDie(InProcessVsockBackend::Create(
        LinuxKernel(), {.guest_cid = kCid, .host = {.uds_path = Folder() + "/v.sock"}}));
    for (int i = 0; i < 2; ++i) {
      kicks_.push_back(OrDie(EventFd::Create(LinuxKernel())));
      calls_.push_back(OrDie(EventFd::Create(LinuxKernel())));
    }
    BackendStart start{.acked = kAcked, .memory = guest_.table(), .vrings = {}};
    for (size_t i = 0; i < 2; ++i) {
      start.vrings.push_back(guest_.VringOf(static_cast<int>(i), kicks_[i].get(), calls_[i].get()));
    }
    const absl::Status status = backend_->Start(start);
    if (!status.ok()) Die(status.ToString());
    guest_.Connect([&] { Kick(); });
  }
  ~Threads() { backend_->Stop(); }
  void ToHost(size_t bytes) {
    std::thread host([&] {
      for (size_t done = 0; done < bytes; done += kPacket) {
        ReadAll(guest_.host_fd(), guest_.host_memory(), kPacket);
      }
    });
    for (size_t done = 0; done < bytes;) {
      if (guest_.credit() < kPacket) {
        WaitForCall([&] { return guest_.Receive(); });
      } else if (guest_.Send(kernel_abi::kVsockOpRw, kPacket)) {
        done += kPacket;
        Kick();
      } else {
        WaitForCall([&] { return guest_.driver.under_way() < kTransmitSlots; });
      }
    }
    host.join();
    guest_.Receive();
  }
  void ToGuest(size_t bytes) {
    const uint32_t end = guest_.received + static_cast<uint32_t>(bytes);
    std::thread host([&] {
      for (size_t done = 0; done < bytes; done += kPacket) {
        WriteAll(guest_.host_fd(), guest_.host_memory(), kPacket);
      }
    });
    while (guest_.received != end) {
      if (!guest_.Receive()) WaitForCall([&] { return guest_.Receive(); });
      Kick();
    }
    host.join();
  }

 private:
  void Kick() {
    if (guest_.driver.transmit().KickWanted()) kicks_[1].Signal();
    if (guest_.driver.receive().KickWanted()) kicks_[0].Signal();
  }
  template <typename Look>
  void WaitForCall(Look look) {
    guest_.driver.receive().WantInterruptNext();
    guest_.driver.transmit().WantInterruptNext();
    Kick();
    if (look()) return;
    pollfd fds[2] = {{calls_[0].get(), POLLIN, 0}, {calls_[1].get(), POLLIN, 0}};
    poll(fds, 2, 1000);
    calls_[0].Drain();
    calls_[1].Drain();
  }
  Guest guest_;
  std::vector<EventFd> kicks_, calls_;
  std::unique_ptr<InProcessVsockBackend> backend_;
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
    Threads threads;
    for (int round = -1; round < rounds; ++round) {
      Row warm{"", {}, {}};
      Measure(
          round < 0 ? warm : rows[2], round & 1, bytes, [&] { threads.ToHost(bytes); },
          [&] { bare.Threads(bytes); });
      Measure(
          round < 0 ? warm : rows[3], round & 1, bytes, [&] { threads.ToGuest(bytes); },
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
  int rounds = 9;
  size_t mib = 512;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--check") {
      check = true;
    } else if (argument == "--rounds" && i + 1 < argc) {
      rounds = std::max(1, std::atoi(argv[++i]));
    } else if (argument == "--mib" && i + 1 < argc) {
      mib = static_cast<size_t>(std::max(1, std::atoi(argv[++i])));
    } else {
      std::fprintf(stderr, "usage: bench_vsock [--rounds N] [--mib N] [--check]\n");
      return 2;
    }
  }
  return vhost::inprocess::Main(rounds, mib << 20, check);
}

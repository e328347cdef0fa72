// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For bench_vsock and bench_vsock_peers: one connection of a guest that is none, and the host's end
// of it, with the guest's driver, the device and the host's process on threads of their own.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/unique_fd.h"
#include "tests/bench/bench_pairs.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "vhost/backend.h"

namespace vhost::bench {

inline constexpr uint64_t kCid = 3;
inline constexpr uint32_t kPort = 52;  // of the host's listener
inline constexpr uint32_t kPacket = 64 * 1024;
inline constexpr uint16_t kReceiveBuffers = 128;
inline constexpr uint16_t kTransmitSlots = 16;
inline constexpr uint32_t kGuestBuffer = 256 * 1024;
inline constexpr VirtioFeatures kVsockAcked = {VirtioFeature::kVersion1, VirtioFeature::kEventIdx};

[[noreturn]] inline void Die(const std::string& why) {
  std::fprintf(stderr, "bench: %s\n", why.c_str());
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

inline void ReadAll(int fd, std::byte* into, size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = recv(fd, into, bytes, 0);
    if (count <= 0) Die("recv");
    into += count;
    bytes -= static_cast<size_t>(count);
  }
}
inline void WriteAll(int fd, const std::byte* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = send(fd, from, bytes, MSG_NOSIGNAL);
    if (count <= 0) Die("send");
    from += count;
    bytes -= static_cast<size_t>(count);
  }
}

// What in-process vsock brings connections of the guest to (PATH_<port>).
inline kernel_abi::UniqueFd ListenAt(const std::string& path) {
  kernel_abi::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  unlink(path.c_str());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd.get(), 1) != 0) {
    Die(path + ": cannot listen");
  }
  return fd;
}

// One connection of a guest, and the host's end of it.
class VsockGuest {
  using Header = fakes::VsockDriver::Header;

 public:
  // `listener`: a socket of the host that listens on port 52.
  explicit VsockGuest(kernel_abi::UniqueFd listener)
      : listener_(std::move(listener)),
        driver(ram_, {.cid = kCid,
                      .receive_size = kReceiveBuffers,
                      .transmit_size = kTransmitSlots,
                      .event_idx = true}) {
    memory_.resize(kPacket);
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
    host_ = kernel_abi::UniqueFd(accept4(listener_.get(), nullptr, nullptr, 0));
    if (!host_.valid()) Die("accept");
  }
  bool Send(uint16_t op, uint32_t length) {
    Header header{};
    header.src_cid = kCid;
    header.dst_cid = kernel_abi::kVsockHostCid;
    header.src_port = 1024;
    header.dst_port = kPort;
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
  const kernel_abi::UniqueFd listener_;
  kernel_abi::UniqueFd host_;
  uint32_t told_ = 0;
  uint32_t peer_buffer_ = 0;
  uint32_t peer_forwarded_ = 0;

 public:
  fakes::VsockDriver driver;
};

// Serves it by `backend`.
class VsockThreads {
 public:
  VsockThreads(std::unique_ptr<Backend> backend, kernel_abi::UniqueFd listener)
      : guest_(std::move(listener)), backend_(std::move(backend)) {
    for (int i = 0; i < 2; ++i) {
      kicks_.push_back(OrDie(kernel_abi::EventFd::Create(kernel_abi::LinuxKernel())));
      calls_.push_back(OrDie(kernel_abi::EventFd::Create(kernel_abi::LinuxKernel())));
    }
    BackendStart start{.acked = kVsockAcked, .memory = guest_.table(), .vrings = {}};
    for (size_t i = 0; i < 2; ++i) {
      start.vrings.push_back(guest_.VringOf(static_cast<int>(i), kicks_[i].get(), calls_[i].get()));
    }
    const absl::Status status = backend_->Start(start);
    if (!status.ok()) Die(status.ToString());
    guest_.Connect([&] { Kick(); });
  }
  ~VsockThreads() { backend_->Stop(); }
  // By packets, or writes of the host's process, of `piece` bytes.
  void ToHost(size_t bytes, uint32_t piece) {
    std::thread host([&] {
      for (size_t done = 0; done < bytes; done += piece) {
        ReadAll(guest_.host_fd(), guest_.host_memory(), piece);
      }
    });
    for (size_t done = 0; done < bytes;) {
      if (guest_.credit() < piece) {
        WaitForCall([&] { return guest_.Receive(); });
      } else if (guest_.Send(kernel_abi::kVsockOpRw, piece)) {
        done += piece;
        Kick();
      } else {
        WaitForCall([&] { return guest_.driver.under_way() < kTransmitSlots; });
      }
    }
    host.join();
    guest_.Receive();
  }
  void ToGuest(size_t bytes, uint32_t piece) {
    const uint32_t end = guest_.received + static_cast<uint32_t>(bytes);
    std::thread host([&] {
      for (size_t done = 0; done < bytes; done += piece) {
        WriteAll(guest_.host_fd(), guest_.host_memory(), piece);
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
  VsockGuest guest_;
  std::vector<kernel_abi::EventFd> kicks_, calls_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace vhost::bench

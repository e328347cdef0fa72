// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Packets of a hostile driver, mixed with what processes of the host do, on a VsockMux. An input is
// a list of actions, read to its end; every byte string is one. The device may drop, refuse and
// reset what it likes, but must come to rest after each action, return every chain, and hold no
// more than its limits say.
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/kernel.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "vhost/host/unix_socket.h"
#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::UniqueFd;

constexpr uint64_t kCid = 3;
constexpr VsockLimits kLimits = {.connections = 8,
                                 .half_open = 4,
                                 .window_bytes = 16 * 1024,
                                 .smallest_window_bytes = 1024,
                                 .buffer_bytes = 256 * 1024};

constexpr size_t kMostPeers = 8;
constexpr uint32_t kTransmitBytes = 4096;

void Require(bool holds) {
  if (!holds) std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  uint32_t Word() {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | Byte();
    return word;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

const std::string& Folder() {
  static const std::string folder = [] {
    char name[] = "/tmp/vsock_packet_fuzz.XXXXXX";
    Require(mkdtemp(name) != nullptr);
    std::atexit([] { rmdir(Folder().c_str()); });
    return std::string(name);
  }();
  return folder;
}

class World {
 public:
  World()
      : driver_(ram_, {.cid = kCid,
                       .receive_size = 16,
                       .transmit_size = 16,
                       .receive_bytes = 512,
                       .transmit_bytes = kTransmitBytes,
                       .post_receive = false}) {
    driver_.KeepReceived(true);
    const std::string path = Folder() + "/v";
    auto host = VsockHost::Create({.uds_path = path});
    auto stream = UnixListener::Create(path + "_1", {.type = SOCK_STREAM});
    auto seqpacket = UnixListener::Create(path + "_2", {.type = SOCK_SEQPACKET});
    Require(host.ok() && stream.ok() && seqpacket.ok());
    listeners_.push_back(*std::move(stream));
    listeners_.push_back(*std::move(seqpacket));
    auto mux = VsockMux::Create(
        {.guest_cid = kCid, .limits = kLimits, .now = [this] { return now_; }}, *std::move(host));
    Require(mux.ok());
    mux_ = *std::move(mux);
    const auto table = ram_.table();
    const auto make = [&](const VringSetup& setup) {
      return Virtqueue::Create(kernel_abi::LinuxKernel(),
                               *Vring::Create(setup, VringLayout::kSplit, *table), 0,
                               {VirtioFeature::kVersion1}, table, -1);
    };
    receive_ = make(driver_.receive().setup());
    transmit_ = make(driver_.transmit().setup());
    mux_->Attach(receive_.get(), transmit_.get(), /*seqpacket_acked=*/true);
  }

  void Act(Input& input) {
    switch (const uint8_t action = input.Byte(); action % 8) {
      case 0:
      case 1:
      case 2:
        Send(input);
        break;
      case 3:
        driver_.PostReceive(1 + action / 64);
        break;
      case 4:
        Host(input);
        break;
      case 5:
        Client(input);
        break;
      case 6:
        now_ += std::chrono::milliseconds(10 * input.Byte());
        break;
      case 7:
        if (action == 255) mux_->DropConnections();
        if (UniqueFd fd = Accept(action / 8 % 2); fd.valid()) Keep(std::move(fd));
        break;
    }
    Rest();
  }

 private:
  void Send(Input& input) {
    // Most fields are near to what is right, so that inputs get far; some are anything.
    const uint8_t shape = input.Byte();
    kernel_abi::VirtioVsockHdr header{};
    header.src_cid = (shape & 1) != 0 ? input.Word() : kCid;
    header.dst_cid = (shape & 2) != 0 ? input.Word() : kernel_abi::kVsockHostCid;
    header.src_port = input.Byte() % 4;
    const uint8_t to = input.Byte();
    header.dst_port = to < 16 ? 1 + to % 3 : last_host_port_;
    header.type = static_cast<uint16_t>((shape & 4) != 0 ? input.Word() : 1 + to % 2);
    header.op = static_cast<uint16_t>(input.Byte() % 9);
    const uint32_t payload = (shape & 8) != 0 ? input.Word() % (kTransmitBytes - 44) : 8;
    header.len = (shape & 16) != 0 ? input.Word() : payload;
    header.flags = input.Byte() % 4;
    header.buf_alloc = (shape & 32) != 0 ? input.Word() : 8192;
    header.fwd_cnt = (shape & 64) != 0 ? input.Word() : taken_;
    if ((shape & 128) != 0) {
      std::byte cut[sizeof(header)];
      std::memcpy(cut, &header, sizeof(cut));
      driver_.SendBytes(std::span<const std::byte>(cut).first(1 + input.Byte() % sizeof(cut)));
    } else {
      driver_.SendInPlace(header, payload);
    }
  }

  void Host(Input& input) {
    if (peers_.empty()) return;
    UniqueFd& peer = peers_[input.Byte() % peers_.size()];
    static const std::string text(40'000, 'x');
    static std::string sink(65536, '\0');
    switch (input.Byte() % 6) {
      case 0:
      case 1:
        send(peer.get(), text.data(), input.Word() % text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
      case 2:
        recv(peer.get(), sink.data(), sink.size(), MSG_DONTWAIT);
        break;
      case 3:
        shutdown(peer.get(), SHUT_WR);
        break;
      case 4:
        shutdown(peer.get(), SHUT_RD);
        break;
      case 5:
        std::swap(peer, peers_.back());
        peers_.pop_back();
        break;
    }
  }

  void Client(Input& input) {
    const bool stream = input.Byte() % 2 == 0;
    auto fd = ConnectUnix(Folder() + (stream ? "/v" : "/v.seqpacket"),
                          stream ? SOCK_STREAM : SOCK_SEQPACKET);
    if (!fd.ok()) return;
    std::string line = "CONNECT " + std::to_string(input.Byte() % 4) + "\n";
    if (input.Byte() % 4 == 0) {
      for (char& c : line) c = static_cast<char>(c ^ (input.Byte() % 64 == 0 ? 32 : 0));
      line.resize(input.Byte() % (line.size() + 1));
    }
    send(fd->get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    Keep(*std::move(fd));
  }

  UniqueFd Accept(size_t which) {
    return UniqueFd(accept4(listeners_[which].fd(), nullptr, nullptr, SOCK_NONBLOCK));
  }
  void Keep(UniqueFd fd) {
    if (peers_.size() == kMostPeers) peers_.erase(peers_.begin());
    peers_.push_back(std::move(fd));
  }

  void Rest() {
    mux_->NoteEvents();
    for (int rounds = 0; mux_->Poll() || mux_->Arm(); ++rounds) Require(rounds < 10'000);
    Require(receive_->in_flight() == 0 && transmit_->in_flight() == 0);
    Require(mux_->connections() <= kLimits.connections);
    Require(mux_->stats().buffered_bytes <= kLimits.buffer_bytes);
    kernel_abi::VirtioVsockHdr header{};
    while (const auto packet = driver_.Receive()) {
      header = packet->header;
      Require(header.src_cid == kernel_abi::kVsockHostCid && packet->payload.size() == header.len);
      if (header.op == kernel_abi::kVsockOpRw) taken_ += header.len;
      if (header.op == kernel_abi::kVsockOpRequest) last_host_port_ = header.src_port;
    }
  }

  fakes::GuestRam ram_{1 << 20};
  fakes::VsockDriver driver_;
  std::vector<UnixListener> listeners_;
  std::chrono::steady_clock::time_point now_{std::chrono::hours(1)};
  std::unique_ptr<VsockMux> mux_;
  std::unique_ptr<Virtqueue> receive_, transmit_;
  std::vector<UniqueFd> peers_;
  uint32_t last_host_port_ = 1u << 30;
  uint32_t taken_ = 0;
};

}  // namespace
}  // namespace vhost::inprocess

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  vhost::inprocess::World world;
  vhost::inprocess::Input input(data, size);
  while (!input.empty()) world.Act(input);
  return 0;
}

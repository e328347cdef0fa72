// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For tests: a VsockMux between a guest's driver and unix sockets in a folder of its own, on one
// thread and with a clock that the test moves.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kernel-abi/kernel.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "tests/fakes/vsock_guest.h"
#include "vhost/host/unix_socket.h"
#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {

// A process on the host, as far as its socket shows it. Never waits.
class HostPeer {
 public:
  HostPeer() = default;
  explicit HostPeer(kernel_abi::UniqueFd fd) : fd_(std::move(fd)) {}

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  // Bytes that the socket took; -1 with an error.
  ssize_t Say(const std::string& text) {
    return send(fd(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  // What has come, of seqpacket one message; nullopt if nothing has. The end is an empty text.
  std::optional<std::string> Hear(size_t most = 1 << 20) {
    std::string text(most, '\0');
    const ssize_t count = recv(fd(), text.data(), text.size(), MSG_DONTWAIT);
    if (count < 0) return std::nullopt;
    text.resize(static_cast<size_t>(count));
    return text;
  }
  // True once the other side has ended the stream and all was heard, or reset it.
  bool AtEnd() {
    char c;
    const ssize_t count = recv(fd(), &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return count == 0 || (count < 0 && errno == ECONNRESET);
  }
  void Shutdown(int how) { shutdown(fd(), how); }
  void Close() { fd_.Reset(); }

 private:
  kernel_abi::UniqueFd fd_;
};

class VsockMuxTest : public testing::Test {
 protected:
  static constexpr uint64_t kCid = 3;

  VsockMuxTest() {
    char name[] = "/tmp/vsock_mux_test.XXXXXX";
    folder_ = mkdtemp(name);
    path_ = folder_ + "/v.sock";
  }
  ~VsockMuxTest() override {
    mux_.reset();
    std::filesystem::remove_all(folder_);
  }

  // Every test begins with it.
  void Start(const VsockLimits& limits = {}, fakes::VsockDriver::Options driver = {}) {
    driver.cid = kCid;
    driver_ = std::make_unique<fakes::VsockDriver>(ram_, driver);
    guest_ = std::make_unique<fakes::VsockGuest>(*driver_, [this] { Poll(); });
    auto host = VsockHost::Create({.uds_path = path_});
    ASSERT_TRUE(host.ok()) << host.status();
    auto mux = VsockMux::Create(
        {.guest_cid = kCid, .limits = limits, .capture = &capture_, .now = [this] { return now_; }},
        *std::move(host));
    ASSERT_TRUE(mux.ok()) << mux.status();
    mux_ = *std::move(mux);
    acked_ = {VirtioFeature::kVersion1, VirtioFeature::kVsockSeqpacket};
    if (driver.event_idx) acked_.Set(VirtioFeature::kEventIdx);
    if (driver.packed) acked_.Set(VirtioFeature::kRingPacked);
    if (driver.in_order) acked_.Set(VirtioFeature::kInOrder);
    const VringBase base = InitialBase(driver_->receive().layout());
    Attach(base, base);
  }
  void Attach(VringBase receive_base, VringBase transmit_base) {
    const auto table = ram_.table();
    const auto make = [&](const VringSetup& setup, VringBase base) {
      return Virtqueue::Create(kernel_abi::LinuxKernel(),
                               *Vring::Create(setup, driver_->receive().layout(), *table), base,
                               acked_, table, -1);
    };
    receive_ = make(driver_->receive().setup(), receive_base);
    transmit_ = make(driver_->transmit().setup(), transmit_base);
    mux_->Attach(receive_.get(), transmit_.get(), acked_.Has(VirtioFeature::kVsockSeqpacket));
  }

  // Runs the device until it has nothing to do; a test fails if that never comes.
  void Poll() {
    mux_->NoteEvents();
    int rounds = 0;
    while (mux_->Poll() || mux_->Arm()) {
      ASSERT_LT(++rounds, 100'000) << "the device spins";
    }
    ASSERT_EQ(receive_->in_flight(), 0);
    ASSERT_EQ(transmit_->in_flight(), 0);
  }
  void Pass(std::chrono::milliseconds time) {
    now_ += time;
    guest_->Run();
  }
  uint64_t Drops(VsockDrop drop) const {
    const auto index = static_cast<size_t>(drop);
    return mux_->stats().to_guest.drops[index] + mux_->stats().from_guest.drops[index];
  }
  uint64_t AllDrops() const {
    uint64_t sum = 0;
    for (int i = 0; i < static_cast<int>(VsockDrop::kCount); ++i) {
      sum += Drops(static_cast<VsockDrop>(i));
    }
    return sum;
  }

  // A process of the host that listens for the guest's connections to `port`.
  UnixListener ListenAt(uint32_t port, int type = SOCK_STREAM, int backlog = 16) {
    auto listener = UnixListener::Create(path_ + "_" + std::to_string(port),
                                         {.type = type, .backlog = backlog});
    if (!listener.ok()) std::abort();
    return *std::move(listener);
  }
  static HostPeer Accept(const UnixListener& listener) {
    return HostPeer(kernel_abi::UniqueFd(
        accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)));
  }
  // A process of the host that connects to the guest, and has said nothing yet.
  HostPeer Client(int type = SOCK_STREAM) {
    auto fd = ConnectUnix(type == SOCK_STREAM ? path_ : path_ + ".seqpacket", type);
    return fd.ok() ? HostPeer(*std::move(fd)) : HostPeer();
  }

  // An established connection from the guest to the host, or from the host to the guest.
  struct Connection {
    fakes::VsockGuest::Socket* guest = nullptr;
    HostPeer host;
  };
  Connection ConnectFromGuest(uint32_t port = 52, int type = SOCK_STREAM,
                              uint32_t buffer = 256 * 1024) {
    const UnixListener listener = ListenAt(port, type);
    Connection connection;
    connection.guest = guest_->Connect(port, Type(type), buffer);
    guest_->Run();
    connection.host = Accept(listener);
    EXPECT_TRUE(connection.guest->established);
    EXPECT_TRUE(connection.host.valid());
    return connection;
  }
  Connection ConnectFromHost(uint32_t port = 80, int type = SOCK_STREAM) {
    guest_->Listen(port);
    Connection connection;
    connection.host = Client(type);
    EXPECT_TRUE(connection.host.valid());
    connection.host.Say("CONNECT " + std::to_string(port) + "\n");
    guest_->Run();
    connection.guest = guest_->Accepted(port);
    EXPECT_NE(connection.guest, nullptr);
    EXPECT_EQ(connection.host.Hear(64), "OK " + std::to_string(connection.guest->host_port) + "\n");
    return connection;
  }
  static uint16_t Type(int type) {
    return type == SOCK_STREAM ? kernel_abi::kVsockTypeStream : kernel_abi::kVsockTypeSeqpacket;
  }

  // What the host's process hears while the device runs, until nothing more comes.
  std::string HearAll(HostPeer& peer) {
    std::string all;
    for (int quiet = 0; quiet < 3;) {
      guest_->Run();
      const std::optional<std::string> text = peer.Hear();
      if (text.has_value() && !text->empty()) {
        all += *text;
        quiet = 0;
      } else {
        ++quiet;
      }
    }
    return all;
  }
  // Has the host's process say all of it, while the device runs.
  bool SayAll(HostPeer& peer, const std::string& text) {
    size_t done = 0;
    for (int idle = 0; done < text.size() && idle < 100;) {
      const ssize_t count = peer.Say(text.substr(done));
      idle = count > 0 ? 0 : idle + 1;
      if (count > 0) done += static_cast<size_t>(count);
      guest_->Run();
    }
    return done == text.size();
  }
  static std::string Pattern(size_t bytes, uint32_t seed = 1) {
    std::string text(bytes, '\0');
    uint32_t x = seed * 2654435761u + 1;
    for (char& c : text) {
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      c = static_cast<char>(x);
    }
    return text;
  }

  std::string folder_;
  std::string path_;
  fakes::GuestRam ram_{uint64_t{64} << 20};
  VsockMux::Clock::time_point now_{std::chrono::hours(1)};
  VirtioFeatures acked_;
  std::unique_ptr<fakes::VsockDriver> driver_;
  std::unique_ptr<fakes::VsockGuest> guest_;
  PacketCapture capture_;
  std::unique_ptr<VsockMux> mux_;
  std::unique_ptr<Virtqueue> receive_;
  std::unique_ptr<Virtqueue> transmit_;
};

}  // namespace vhost::inprocess

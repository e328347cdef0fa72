// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A vhost-user front end for tests of back ends: over a real socket, with a driver's rings in
// memory that it shares. A correct one with the calls named after what they bring about; a hostile
// one with Send, which sends what it is told.
//
// The back end runs on the test's thread: `pump` lets it have its turn. Or it is another process,
// whose answers are waited for.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "tests/fakes/driver_ring.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/user/connection.h"
#include "vhost/user/message.h"

namespace fakes {

class VhostUserFrontEnd {
 public:
  using Request = vhost::user::FrontEndRequest;
  using Message = vhost::user::Message;

  VhostUserFrontEnd(kernel_abi::UniqueFd socket, std::function<void()> pump)
      : connection_(std::move(socket), vhost::user::RequestSet::kFrontEnd,
                    vhost::user::Role::kRequester, "back end"),
        pump_(std::move(pump)) {}
  explicit VhostUserFrontEnd(kernel_abi::UniqueFd socket)
      : VhostUserFrontEnd(std::move(socket), [] {}) {
    waits_ = true;
  }

  // A ring with the eventfds that belong to it.
  struct Ring {
    Ring(GuestRam& ram, DriverRing::Options options) : driver(ram, options) {}
    DriverRing driver;
    kernel_abi::EventFd kick = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
    kernel_abi::EventFd call = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
    kernel_abi::EventFd err = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  };

  // ---- Whatever is wanted ----
  void Send(const Message& message, const std::vector<int>& fds = {}) {
    connection_.Send(message, fds, Soon()).IgnoreError();
    pump_();
  }
  std::optional<Message> TryReceive() {
    if (waits_) {
      auto message = connection_.Receive(Soon());
      return message.ok() ? std::optional(*std::move(message)) : std::nullopt;
    }
    auto message = connection_.TryReceive();
    return message.ok() ? *std::move(message) : std::nullopt;
  }
  int fd() const { return connection_.fd(); }
  void Close() {
    connection_.Close();
    pump_();
  }
  // Whether the back end has ended the connection.
  bool is_dropped() {
    TryReceive();
    return !connection_.status().ok();
  }
  std::string why_dropped() const { return std::string(connection_.status().message()); }

  // ---- Requests with their answers; nullopt: none came ----
  std::optional<uint64_t> GetNumber(Request request) {
    Send(vhost::user::MakeRequest(request));
    return ReceiveNumber();
  }
  std::optional<uint64_t> ReceiveNumber() {
    const std::optional<Message> answer = TryReceive();
    if (!answer.has_value()) return std::nullopt;
    const auto number = vhost::user::GetU64(*answer);
    return number.ok() ? std::optional(*number) : std::nullopt;
  }
  // With need_reply: whether the back end says that it was done.
  bool Ask(Message message, const std::vector<int>& fds = {}) {
    message.flags |= vhost::user::kFlagNeedReply;
    Send(message, fds);
    return ReceiveNumber() == uint64_t{0};
  }
  template <typename Payload>
  bool Ask(Request request, const Payload& payload, const std::vector<int>& fds = {}) {
    return Ask(vhost::user::MakeRequest(request, payload), fds);
  }

  // ---- Bringing up ----
  // Owner, features, protocol features: those offered, of the ones wanted.
  bool Negotiate(uint64_t features, vhost::user::ProtocolFeatures wanted) {
    Send(vhost::user::MakeRequest(Request::kSetOwner));
    const std::optional<uint64_t> offered = GetNumber(Request::kGetFeatures);
    const std::optional<uint64_t> protocol = GetNumber(Request::kGetProtocolFeatures);
    if (!offered.has_value() || !protocol.has_value()) return false;
    wanted.Set(vhost::user::ProtocolFeature::kReplyAck);
    Send(vhost::user::MakeRequest(Request::kSetProtocolFeatures, wanted.low() & *protocol));
    const uint64_t protocol_bit = uint64_t{1} << vhost::user::kProtocolFeaturesBit;
    return Ask(Request::kSetFeatures, (features & *offered) | (protocol_bit & *offered));
  }
  static vhost::user::MemRegion RegionOf(const GuestRam& ram) {
    const vhost::MemoryRegion region = ram.region();
    return {.guest_address = vhost::Value(region.start),
            .size = region.size,
            .user_address = reinterpret_cast<uint64_t>(region.host),
            .mmap_offset = 0};
  }
  bool ShareMemory(const GuestRam& ram) {
    const vhost::user::MemRegion region = RegionOf(ram);
    return Ask(vhost::user::MakeMemTable({&region, 1}), {ram.region().memfd});
  }
  static vhost::user::VringAddr AddressOf(const GuestRam& ram, uint32_t queue,
                                          const vhost::VringSetup& setup) {
    const auto user = [&ram](vhost::GuestAddress address) {
      return reinterpret_cast<uint64_t>(ram.Host(address));
    };
    return {.index = queue,
            .flags = 0,
            .desc = user(setup.desc),
            .used = user(setup.device),
            .avail = user(setup.driver),
            .log = 0};
  }
  // All but the kick that starts it, and enabling it.
  bool SetUp(const GuestRam& ram, uint32_t queue, Ring& ring, uint32_t base = 0) {
    using vhost::user::VringState;
    return Ask(Request::kSetVringNum, VringState{queue, ring.driver.setup().size}) &&
           Ask(Request::kSetVringBase, VringState{queue, base}) &&
           Ask(Request::kSetVringAddr, AddressOf(ram, queue, ring.driver.setup())) &&
           Ask(Request::kSetVringErr, uint64_t{queue}, {ring.err.get()}) &&
           Ask(Request::kSetVringCall, uint64_t{queue}, {ring.call.get()}) &&
           Ask(Request::kSetVringKick, uint64_t{queue}, {ring.kick.get()});
  }
  bool Enable(uint32_t queue, bool enabled = true) {
    return Ask(Request::kSetVringEnable, vhost::user::VringState{queue, enabled ? 1U : 0U});
  }
  void Kick(const Ring& ring) {
    ring.kick.Signal();
    pump_();
  }
  // GET_VRING_BASE.
  std::optional<uint32_t> StopRing(uint32_t queue) {
    Send(vhost::user::MakeRequest(Request::kGetVringBase, vhost::user::VringState{queue, 0}));
    const std::optional<Message> answer = TryReceive();
    if (!answer.has_value()) return std::nullopt;
    const auto state = vhost::user::GetPayload<vhost::user::VringState>(*answer);
    if (!state.ok() || state->index != queue) return std::nullopt;
    return state->num;
  }
  // What the device returns next; it has a minute.
  std::optional<DriverRing::Used> WaitForUsed(Ring& ring) {
    for (int i = 0; i < 600; ++i) {
      pump_();
      if (std::optional<DriverRing::Used> used = ring.driver.TakeUsed()) return used;
      pollfd call{.fd = ring.call.get(), .events = POLLIN, .revents = 0};
      if (poll(&call, 1, 100) == 1) ring.call.Drain();
    }
    return std::nullopt;
  }

 private:
  static vhost::user::Connection::Deadline Soon() {
    return vhost::user::Connection::Clock::now() + std::chrono::seconds(60);
  }

  vhost::user::Connection connection_;
  const std::function<void()> pump_;
  bool waits_ = false;
};

}  // namespace fakes

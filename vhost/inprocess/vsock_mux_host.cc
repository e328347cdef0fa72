// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// VsockMux: the host's sockets, its clients, and time.
#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/inprocess/vsock_mux.h"

namespace vhost::inprocess {
namespace {

using State = VsockConnection::State;
using kernel_abi::UniqueFd;

constexpr int kEventsAtOnce = 64;
constexpr std::chrono::milliseconds kDialAgain{20};
constexpr std::chrono::milliseconds kAcceptAgain{100};
// Host ports of clients: as Firecracker gives them, beyond all that are well known.
constexpr uint32_t kFirstHostPort = 1u << 30;
constexpr uint32_t kLastHostPort = (1u << 31) - 1;
constexpr uint32_t kSocketEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;

// The deadline of no link: of accepting when there was a lack of fds.
constexpr uint64_t kAcceptId = 0;

}  // namespace

absl::Status VsockMux::WatchSocket(int fd, uint64_t id) const {
  epoll_event event{};
  event.events = kSocketEvents;
  event.data.u64 = id;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return kernel_abi::MakeSystemError(
      {.error = errno, .subject = host_->uds_path(), .call = "epoll_ctl"});
}

void VsockMux::WatchRoom(VsockLink& link) {
  // Only while there is need: a peer that reads would wake this process for every read.
  const bool wanted = link.wants_room();
  if (!link.has_socket() || wanted == link.watched_for_room) return;
  epoll_event event{};
  event.events = kSocketEvents | (wanted ? EPOLLOUT : 0u);
  event.data.u64 = link.id;
  // Tells at once what is there already. It cannot fail for an fd that is watched.
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, link.fd(), &event);
  link.watched_for_room = wanted;
}

bool VsockMux::ServeEvents() {
  if (!events_pending_) return false;
  std::array<epoll_event, kEventsAtOnce> events;
  const int count = epoll_wait(epoll_.get(), events.data(), kEventsAtOnce, 0);
  events_pending_ = count == kEventsAtOnce;
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[static_cast<size_t>(i)].data.u64;
    const uint32_t ready = events[static_cast<size_t>(i)].events;
    if (id == static_cast<uint64_t>(VsockType::kStream)) {
      accept_pending_[0] = true;
    } else if (id == static_cast<uint64_t>(VsockType::kSeqpacket)) {
      accept_pending_[1] = true;
    } else if (const auto link = links_.find(id); link != links_.end()) {
      link->second->OnEvents(ready);
      const uint32_t before = link->second->backlog().bytes();
      const std::optional<VsockDrop> drop = link->second->Flush();
      stats_.buffered_bytes -= before - link->second->backlog().bytes();
      if (drop.has_value()) stats_.from_guest.Drop(*drop);
      Settle(*link->second);
    } else if (const auto client = clients_.find(id); client != clients_.end()) {
      OnClient(id, client->second, ready);
    }
  }
  if (accept_pending_[0]) AcceptClients(VsockType::kStream);
  if (accept_pending_[1]) AcceptClients(VsockType::kSeqpacket);
  return count > 0;
}

// ---- Clients -----------------------------------------------------------------------------------

void VsockMux::AcceptClients(VsockType type) {
  bool& pending = accept_pending_[type == VsockType::kStream ? 0 : 1];
  while (half_open_clients() < options_.limits.half_open &&
         links_.size() + clients_.size() < options_.limits.connections) {
    absl::StatusOr<std::optional<UniqueFd>> fd = host_->Accept(type);
    if (!fd.ok()) {  // No fd to be had: later.
      deadlines_.insert({options_.now() + kAcceptAgain, kAcceptId});
      return;
    }
    if (!fd->has_value()) {
      pending = false;
      return;
    }
    const uint64_t id = next_id_++;
    Client client{.fd = *std::move(*fd),
                  .type = type,
                  .deadline = options_.now() + options_.limits.half_open_timeout};
    if (!WatchSocket(client.fd.get(), id).ok()) continue;
    deadlines_.insert({client.deadline, id});
    clients_.emplace(id, std::move(client));
    // What it has said already is told as an event.
    events_pending_ = true;
  }
}

void VsockMux::OnClient(uint64_t id, Client& client, uint32_t events) {
  uint32_t port = 0;
  VsockHello hello = ReadConnect(client.fd.get(), client.type, port);
  if (hello == VsockHello::kIncomplete) {
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0) return;
    hello = VsockHello::kGarbage;  // The rest will not come.
  }
  Client taken = std::move(client);
  deadlines_.erase({taken.deadline, id});
  clients_.erase(id);
  if (hello == VsockHello::kPort) {
    ConnectClient(id, std::move(taken), port, events);
  } else {
    ++stats_.garbage_clients;
  }
  if (accept_pending_[0] || accept_pending_[1]) events_pending_ = true;
}

void VsockMux::ConnectClient(uint64_t id, Client client, uint32_t port, uint32_t events) {
  const std::optional<uint32_t> host_port = FreeHostPort(port);
  const bool understood = client.type == VsockType::kStream || seqpacket_acked_;
  const std::optional<uint32_t> window =
      host_port.has_value() && understood && links_.size() < options_.limits.connections
          ? ChooseWindow(client.type)
          : std::nullopt;
  // It sees the end of its connection, which is all that it can be told.
  if (!window.has_value()) return stats_.to_guest.Drop(VsockDrop::kConnectionLimit);
  const VsockPorts ports = {.guest = port, .host = *host_port};
  VsockLink* link =
      AddLink(id, VsockConnection::FromHost(options_.guest_cid, ports, client.type, *window),
              std::move(client.fd));
  // It may have said more in the same breath, and even have left.
  link->OnEvents(events);
  link->may_read = true;
  SetDeadline(*link, options_.now() + options_.limits.half_open_timeout);
  Settle(*link);
}

std::optional<uint32_t> VsockMux::FreeHostPort(uint32_t guest_port) {
  // More are tried than there can be connections, so that one is found.
  for (uint32_t tries = 0; tries <= options_.limits.connections; ++tries) {
    const uint32_t port = next_host_port_;
    next_host_port_ = port == kLastHostPort ? kFirstHostPort : port + 1;
    if (FindLink({.guest = guest_port, .host = port}) == nullptr) return port;
  }
  return std::nullopt;
}

// ---- Listeners of the host ---------------------------------------------------------------------

void VsockMux::Dial(VsockLink& link) {
  absl::StatusOr<UniqueFd> fd = host_->Dial(link.connection.type(), link.connection.ports().host);
  if (fd.ok()) {
    if (WatchSocket(fd->get(), link.id).ok()) {
      link.SetSocket(*std::move(fd));
      link.connection.Dialled();
      ++stats_.connections;
    } else {
      stats_.from_guest.Drop(VsockDrop::kConnectionLimit);
      link.connection.Reset();
    }
  } else if (absl::IsResourceExhausted(fd.status()) && options_.now() < link.give_up_at) {
    // The listener's queue is full. Linux tells nobody when there is room.
    SetDeadline(link, options_.now() + kDialAgain);
  } else {
    stats_.from_guest.Drop(VsockDrop::kRefused);
    link.connection.Reset();
  }
  Settle(link);
}

// ---- Time --------------------------------------------------------------------------------------

std::optional<VsockMux::Clock::time_point> VsockMux::deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

void VsockMux::SetDeadline(VsockLink& link, std::optional<Clock::time_point> when) {
  if (link.deadline.has_value()) deadlines_.erase({*link.deadline, link.id});
  link.deadline = when;
  if (when.has_value()) deadlines_.insert({*when, link.id});
}

bool VsockMux::RunDeadlines() {
  if (deadlines_.empty()) return false;
  const Clock::time_point now = options_.now();
  bool worked = false;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const uint64_t id = deadlines_.begin()->second;
    worked = true;
    if (const auto link = links_.find(id); link != links_.end()) {
      SetDeadline(*link->second, std::nullopt);
      OnDeadline(*link->second);
      continue;
    }
    deadlines_.erase(deadlines_.begin());
    if (clients_.erase(id) > 0) ++stats_.garbage_clients;
    // Of a client, or of a lack of fds: others may be accepted.
    if (accept_pending_[0] || accept_pending_[1]) events_pending_ = true;
  }
  return worked;
}

void VsockMux::OnDeadline(VsockLink& link) {
  switch (link.connection.state()) {
    case State::kDialling:
      return Dial(link);
    case State::kClosed:  // It lingered long enough.
      return Destroy(link);
    default:
      link.connection.Reset();
      return Settle(link);
  }
}

}  // namespace vhost::inprocess

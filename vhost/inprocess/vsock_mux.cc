// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_mux.h"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <random>
#include <utility>

#include "absl/memory/memory.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

using Action = VsockConnection::Action;
using State = VsockConnection::State;
using kernel_abi::UniqueFd;

// Chains of the transmit queue that are looked at before others have their turn.
constexpr int kTransmitBurst = 64;
// How much of a stream is written at once: small packets, a system call for each of which would
// cost more than their bytes.
constexpr uint32_t kMostGatheredBytes = 64 * 1024;
constexpr size_t kMostGatheredPieces = 256;
// Resets that wait for receive buffers. One packet of the guest makes at most one.
constexpr size_t kMaxResets = 256;

// What a connection may hold at most, in windows. A seqpacket one: a window of the guest's bytes,
// the lengths of the messages in it (4 bytes for each byte, if they are that short), and a message
// of the host that is being cut into packets.
constexpr uint64_t WindowsOf(VsockType type) { return type == VsockType::kStream ? 1 : 6; }

}  // namespace

size_t VsockMux::PortsHash::operator()(const VsockPorts& ports) const {
  // The guest chooses the ports, but cannot know which of them collide.
  uint64_t x = (uint64_t{ports.guest} << 32 | ports.host) ^ seed;
  x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9;
  return x ^ (x >> 32);
}

VsockMux::VsockMux(const VsockMuxOptions& options, std::unique_ptr<VsockHost> host, UniqueFd epoll,
                   uint64_t seed)
    : options_(options),
      host_(std::move(host)),
      epoll_(std::move(epoll)),
      next_id_(static_cast<uint64_t>(VsockType::kSeqpacket) + 1),  // listeners have their type's
      next_host_port_(1u << 30),
      by_ports_(64, PortsHash{seed}) {}

VsockMux::~VsockMux() = default;

absl::StatusOr<std::unique_ptr<VsockMux>> VsockMux::Create(const VsockMuxOptions& options,
                                                           std::unique_ptr<VsockHost> host) {
  if (options.guest_cid < kernel_abi::kVsockMinGuestCid ||
      options.guest_cid > kernel_abi::kVsockMaxGuestCid) {
    return absl::InvalidArgumentError("guest_cid: none that a guest can have");
  }
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return kernel_abi::MakeSystemError(
        {.error = errno, .subject = host->uds_path(), .call = "epoll_create1"});
  }
  std::random_device random;
  auto mux = absl::WrapUnique(new VsockMux(options, std::move(host), std::move(epoll),
                                           uint64_t{random()} << 32 | random()));
  for (VsockType type : {VsockType::kStream, VsockType::kSeqpacket}) {
    absl::Status status =
        mux->WatchSocket(mux->host_->listener_fd(type), static_cast<uint64_t>(type));
    if (!status.ok()) return status;
  }
  return mux;
}

void VsockMux::Attach(Virtqueue* receive, Virtqueue* transmit, bool seqpacket_acked) {
  receive_ = receive;
  transmit_ = transmit;
  seqpacket_acked_ = seqpacket_acked;
  receive_kicks_ = transmit_kicks_ = true;
}

bool VsockMux::Poll() {
  bool worked = ServeEvents();
  worked |= RunDeadlines();
  worked |= ServeTransmit();
  worked |= ServeReceive();
  ended_.clear();
  return worked;
}

bool VsockMux::Arm() {
  bool more = events_pending_;
  // With a full queue of resets, only receive buffers help.
  if (transmit_ != nullptr && !transmit_kicks_ && resets_.size() < kMaxResets) {
    more |= transmit_->EnableKicks();
    transmit_kicks_ = true;
  }
  // Receive buffers are news only to one who lacks them.
  if (receive_ != nullptr && receive_starved_ && !receive_kicks_) {
    more |= receive_->EnableKicks();
    receive_kicks_ = true;
  }
  return more;
}

// ---- Packets of the guest ----------------------------------------------------------------------

bool VsockMux::ServeTransmit() {
  if (transmit_ == nullptr || !transmit_->broken().ok()) return false;
  Chain chain;
  int taken = 0;
  for (; taken < kTransmitBurst && resets_.size() < kMaxResets; ++taken) {
    if (!transmit_->Take(chain)) break;
    if (transmit_kicks_) {
      transmit_->DisableKicks();
      transmit_kicks_ = false;
    }
    OnChain(chain);
    chain.Return(0);  // if it was not gathered
  }
  DeliverGathered();
  if (taken == 0) return false;
  ++(transmit_->SignalUsed() ? stats_.from_guest.calls : stats_.from_guest.suppressed_calls);
  return true;
}

void VsockMux::OnChain(Chain& chain) {
  ++stats_.from_guest.packets;
  VsockHeader header;
  if (!chain.Read(0, std::as_writable_bytes(std::span(&header, 1))).ok()) {
    return stats_.from_guest.Drop(VsockDrop::kShortChain);
  }
  if (is_looked_at()) Show(1, chain, header, chain.readable(), chain.readable_bytes());
  if (gathered_link_ != nullptr && !MayFollowGathered(header, chain)) DeliverGathered();
  const std::optional<VsockDrop> wrong = CheckFromGuest(
      header, chain.readable_bytes() - kVsockHeaderBytes, options_.guest_cid, seqpacket_acked_);
  VsockLink* link = wrong.has_value() && *wrong != VsockDrop::kUnknownType
                        ? nullptr
                        : FindLink(PortsFromGuest(header));
  // The reset that answers an unknown type ends a connection of these ports for the guest; so it
  // ends for the host too.
  if (wrong.has_value() && link == nullptr) return Refuse(header, *wrong);
  if (link != nullptr) {
    // The guest has given up the connection, and its reset is still to be sent: before the answer.
    if (header.op == kernel_abi::kVsockOpRequest && link->connection.state() == State::kResetting) {
      resets_.push_back(ResetFor(header));
      Destroy(*link);
      return OnRequest(header);
    }
    return OnPacket(*link, header, chain);
  }
  if (header.op == kernel_abi::kVsockOpRequest) return OnRequest(header);
  // 5.10.6.4.1: nobody's packet. A reset is the guest's answer to one of ours.
  if (header.op != kernel_abi::kVsockOpRst) Refuse(header, VsockDrop::kNoConnection);
}

void VsockMux::Show(int queue, const Chain& chain, const VsockHeader& header,
                    std::span<const iovec> pieces, size_t bytes) const {
  options_.capture->Offer(
      {.queue = queue, .head = chain.head(), .chain_bytes = static_cast<uint32_t>(bytes)},
      std::as_bytes(std::span(&header, 1)), pieces, header.len);
}

void VsockMux::Refuse(const VsockHeader& header, VsockDrop why) {
  stats_.from_guest.Drop(why);
  if (IsAnsweredWithReset(why, header)) resets_.push_back(ResetFor(header));
}

void VsockMux::OnRequest(const VsockHeader& header) {
  const VsockType type = static_cast<VsockType>(header.type);
  // Sockets that wait to be closed count too: one turn may bring many requests.
  if (links_.size() + ended_.size() >= options_.limits.connections ||
      dialling_ >= options_.limits.half_open) {
    return Refuse(header, VsockDrop::kConnectionLimit);
  }
  const std::optional<uint32_t> window = ChooseWindow(type);
  if (!window.has_value()) return Refuse(header, VsockDrop::kConnectionLimit);
  VsockLink* link = AddLink(next_id_++, VsockConnection::FromGuest(header, *window), UniqueFd());
  link->give_up_at = options_.now() + options_.limits.half_open_timeout;
  Dial(*link);
}

// Of the same stream, and few enough.
bool VsockMux::MayFollowGathered(const VsockHeader& header, const Chain& chain) const {
  return header.op == kernel_abi::kVsockOpRw &&
         PortsFromGuest(header) == gathered_link_->connection.ports() &&
         uint64_t{gathered_bytes_} + header.len <= kMostGatheredBytes &&
         chain.readable().size() + payload_.size() <= kMostGatheredPieces;
}

void VsockMux::AppendPayload(uint32_t bytes, const Chain& chain) {
  uint64_t skip = kVsockHeaderBytes;
  uint64_t left = bytes;
  for (const iovec& piece : chain.readable()) {
    if (left == 0) break;
    const uint64_t skipped = std::min<uint64_t>(skip, piece.iov_len);
    skip -= skipped;
    const uint64_t length = std::min(left, piece.iov_len - skipped);
    if (length == 0) continue;
    payload_.push_back({static_cast<std::byte*>(piece.iov_base) + skipped, length});
    left -= length;
  }
}

void VsockMux::DeliverGathered(bool ends_message) {
  if (gathered_link_ == nullptr) return;
  VsockLink& link = *std::exchange(gathered_link_, nullptr);
  const uint32_t before = link.backlog().bytes();
  const std::optional<VsockDrop> drop = link.Deliver(payload_, ends_message);
  stats_.buffered_bytes += uint64_t{link.backlog().bytes()} - before;
  if (drop.has_value()) stats_.from_guest.Drop(*drop, gathered_.size());
  payload_.clear();
  gathered_bytes_ = 0;
  for (Chain& chain : gathered_) chain.Return(0);
  gathered_.clear();
  Settle(link);
}

void VsockMux::OnPacket(VsockLink& link, const VsockHeader& header, Chain& chain) {
  const Action action = link.connection.OnPacket(header);
  // What came before a packet that is refused, or ends the connection, was promised to the host.
  if (action != Action::kDeliver) DeliverGathered();
  switch (action) {
    case Action::kNone:
    case Action::kShutdown:
    case Action::kGone:
      break;
    case Action::kDropped:
    case Action::kReset:
      stats_.from_guest.Drop(link.connection.last_drop());
      break;
    case Action::kEstablished:
      ++stats_.connections;
      // A client that does not wait for the answer may have sent all it has and be gone.
      if (!WriteOk(link.fd(), header.dst_port)) link.connection.HostShutdown(false, true);
      break;
    case Action::kDeliver:
      AppendPayload(header.len, chain);
      stats_.from_guest.bytes += header.len;
      gathered_link_ = &link;
      gathered_bytes_ += header.len;
      gathered_.push_back(std::move(chain));
      if (link.connection.type() == VsockType::kSeqpacket) {
        DeliverGathered((header.flags & kernel_abi::kVsockSeqEom) != 0);
      }
      return;
  }
  Settle(link);
}

// ---- The life of connections -------------------------------------------------------------------

std::optional<uint32_t> VsockMux::ChooseWindow(VsockType type) const {
  const VsockLimits& limits = options_.limits;
  const uint64_t free =
      limits.buffer_bytes - std::min<uint64_t>(limits.buffer_bytes, reserved_bytes_);
  const uint64_t windows = WindowsOf(type);
  // One connection takes at most an eighth of what is left, so that the last ones get some too.
  const uint64_t share = std::bit_floor(free / 8 / windows);
  const uint64_t window =
      std::clamp<uint64_t>(share, limits.smallest_window_bytes, limits.window_bytes);
  if (window * windows > free) return std::nullopt;
  return static_cast<uint32_t>(window);
}

VsockLink* VsockMux::AddLink(uint64_t id, const VsockConnection& connection, UniqueFd fd) {
  auto link = std::make_unique<VsockLink>(id, connection, std::move(fd));
  VsockLink* raw = link.get();
  raw->reserved_bytes = WindowsOf(connection.type()) * connection.receive_credit().buffer_bytes();
  reserved_bytes_ += raw->reserved_bytes;
  raw->by_guest = connection.state() == State::kDialling;
  raw->counted_half_open = true;
  ++(raw->by_guest ? dialling_ : requested_);
  by_ports_[connection.ports()] = raw;
  links_[id] = std::move(link);
  return raw;
}

void VsockMux::Settle(VsockLink& link) {
  const uint32_t before = link.backlog().bytes();
  if (kernel_abi::UniqueFd ended = link.Settle(); ended.valid()) ended_.push_back(std::move(ended));
  stats_.buffered_bytes -= before - link.backlog().bytes();
  if (link.counted_half_open && !link.connection.is_half_open()) {
    link.counted_half_open = false;
    --(link.by_guest ? dialling_ : requested_);
    if (link.connection.state() == State::kEstablished) SetDeadline(link, std::nullopt);
    if (accept_pending_[0] || accept_pending_[1]) events_pending_ = true;
  }
  switch (link.connection.state()) {
    case State::kClosed:
      if (!link.has_to_write()) return Destroy(link);
      // What the guest sent before its reset is still for the host's process.
      if (!link.lingers) {
        link.lingers = true;
        by_ports_.erase(link.connection.ports());
        Dequeue(link);
        SetDeadline(link, options_.now() + options_.limits.linger_timeout);
      }
      break;
    case State::kClosing:
      if (!link.deadline.has_value()) {
        SetDeadline(link, options_.now() + options_.limits.close_timeout);
      }
      break;
    case State::kResetting:
      SetDeadline(link, std::nullopt);
      break;
    default:
      break;
  }
  WatchRoom(link);
  if (link.lingers) return;
  const bool has_data = link.CanRead() && !link.connection.waits_for_credit();
  if (has_data || link.connection.wants_to_send()) Enqueue(link);
}

void VsockMux::Destroy(VsockLink& link) {
  stats_.buffered_bytes -= link.backlog().bytes();
  Dequeue(link);
  SetDeadline(link, std::nullopt);
  if (link.counted_half_open) --(link.by_guest ? dialling_ : requested_);
  reserved_bytes_ -= link.reserved_bytes;
  if (!link.lingers) by_ports_.erase(link.connection.ports());
  links_.erase(link.id);
  // There is room for another client.
  if (accept_pending_[0] || accept_pending_[1]) events_pending_ = true;
}

void VsockMux::Enqueue(VsockLink& link) {
  if (link.queued) return;
  link.queued = true;
  waiting_.splice(waiting_.end(), link.place);
}

void VsockMux::Dequeue(VsockLink& link) {
  if (!link.queued) return;
  link.queued = false;
  link.place.splice(link.place.end(), waiting_, link.position);
}

VsockLink* VsockMux::FindLink(VsockPorts ports) const {
  const auto found = by_ports_.find(ports);
  return found == by_ports_.end() ? nullptr : found->second;
}

void VsockMux::ForEachLink(const std::function<void(const VsockLink&)>& see) const {
  for (const auto& [id, link] : links_) see(*link);
}

void VsockMux::DropConnections() {
  for (const auto& [id, link] : links_) {
    link->may_write = true;
    link->Flush();  // What the socket takes now; the rest goes with the connection.
  }
  waiting_.clear();
  by_ports_.clear();
  std::erase_if(deadlines_, [this](const auto& entry) { return links_.contains(entry.second); });
  links_.clear();
  ended_.clear();
  resets_.clear();
  reserved_bytes_ = 0;
  requested_ = dialling_ = 0;
  stats_.buffered_bytes = 0;
}

}  // namespace vhost::inprocess

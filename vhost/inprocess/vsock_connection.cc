// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_connection.h"

#include <array>

namespace vhost::inprocess {
namespace {

using namespace kernel_abi;  // NOLINT(google-build-using-namespace): the words of the protocol

constexpr uint32_t kShutdownBoth = kVsockShutdownReceive | kVsockShutdownSend;

// What can be owed, as bits, in the order of sending. A reset stands alone; a request or response
// comes before all that belongs to the connection.
constexpr uint8_t kOwesReset = 1 << 0;
constexpr uint8_t kOwesRequest = 1 << 1;
constexpr uint8_t kOwesResponse = 1 << 2;
constexpr uint8_t kOwesShutdown = 1 << 3;
constexpr uint8_t kOwesCreditUpdate = 1 << 4;
constexpr uint8_t kOwesCreditRequest = 1 << 5;

struct Owed {
  uint8_t bit;
  uint16_t op;
};
constexpr std::array<Owed, 6> kInOrder = {{{kOwesReset, kVsockOpRst},
                                           {kOwesRequest, kVsockOpRequest},
                                           {kOwesResponse, kVsockOpResponse},
                                           {kOwesShutdown, kVsockOpShutdown},
                                           {kOwesCreditUpdate, kVsockOpCreditUpdate},
                                           {kOwesCreditRequest, kVsockOpCreditRequest}}};

}  // namespace

const char* Name(VsockConnection::State state) {
  switch (state) {
    case VsockConnection::State::kDialling:
      return "dialling";
    case VsockConnection::State::kRequested:
      return "requested";
    case VsockConnection::State::kEstablished:
      return "established";
    case VsockConnection::State::kClosing:
      return "closing";
    case VsockConnection::State::kResetting:
      return "resetting";
    case VsockConnection::State::kClosed:
      return "closed";
  }
  return "unknown";
}

VsockConnection VsockConnection::FromGuest(const VsockHeader& request, uint32_t buffer_bytes) {
  VsockConnection connection(request.src_cid, PortsFromGuest(request),
                             static_cast<VsockType>(request.type), buffer_bytes);
  connection.send_.Update(request.buf_alloc, 0);
  return connection;
}

VsockConnection VsockConnection::FromHost(uint64_t guest_cid, VsockPorts ports, VsockType type,
                                          uint32_t buffer_bytes) {
  VsockConnection connection(guest_cid, ports, type, buffer_bytes);
  connection.state_ = State::kRequested;
  connection.owed_ = kOwesRequest;
  return connection;
}

void VsockConnection::StartCountsAt(uint32_t sent, uint32_t received) {
  const uint32_t peer_buffer = send_.peer_buffer_bytes();
  send_ = VsockSendCredit(sent);
  send_.Update(peer_buffer, sent);
  receive_ = VsockReceiveCredit(receive_.buffer_bytes(), received);
}

// ---- From the guest ----------------------------------------------------------------------------

VsockConnection::Action VsockConnection::OnPacket(const VsockHeader& header) {
  if (header.op == kVsockOpRst) return Gone();
  if (state_ == State::kResetting || state_ == State::kClosed) return Drop(VsockDrop::kWrongState);
  if (header.type != static_cast<uint16_t>(type_)) return Break(VsockDrop::kUnknownType);
  // A second REQUEST: the guest has forgotten this connection. It may ask again after the reset.
  if (header.op == kVsockOpRequest) return Break(VsockDrop::kWrongState);
  // 5.10.6.3: every header tells of the sender's buffer. A count that cannot be so is not believed,
  // which harms nobody but the guest.
  const uint32_t before = send_.available();
  send_.Update(header.buf_alloc, header.fwd_cnt);
  if (send_.available() > before) asked_for_credit_ = false;
  switch (state_) {
    case State::kDialling:
      // Nothing follows a REQUEST before its answer; but a guest may have changed its mind.
      if (header.op == kVsockOpShutdown) return Break(VsockDrop::kWrongState);
      return header.op == kVsockOpRw ? Break(VsockDrop::kWrongState) : Drop(VsockDrop::kWrongState);
    case State::kRequested:
      if (header.op != kVsockOpResponse) return Break(VsockDrop::kWrongState);
      // An answer to what was not yet sent is a guess.
      if ((owed_ & kOwesRequest) != 0) return Break(VsockDrop::kWrongState);
      state_ = State::kEstablished;
      return Action::kEstablished;
    case State::kEstablished:
      return OnPacketEstablished(header);
    case State::kClosing:
      return OnPacketClosing(header);
    case State::kResetting:
    case State::kClosed:
      break;
  }
  return Drop(VsockDrop::kWrongState);
}

VsockConnection::Action VsockConnection::OnPacketEstablished(const VsockHeader& header) {
  switch (header.op) {
    case kVsockOpRw:
      // Data that was promised not to come cannot be passed on any more; to lose it silently would
      // be worse than a reset.
      if ((peer_shutdown_ & kVsockShutdownSend) != 0) return Break(VsockDrop::kAfterShutdown);
      if (!receive_.Receive(header.len)) return Break(VsockDrop::kCreditExceeded);
      if ((host_shutdown_ & kVsockShutdownReceive) != 0) {
        Forwarded(header.len);
        return Drop(VsockDrop::kAfterShutdown);
      }
      return Action::kDeliver;
    case kVsockOpShutdown: {
      const uint32_t before = peer_shutdown_;
      peer_shutdown_ |= header.flags & kShutdownBoth;
      return peer_shutdown_ == before ? Action::kNone : Action::kShutdown;
    }
    case kVsockOpCreditUpdate:
      return Action::kNone;
    case kVsockOpCreditRequest:
      owed_ |= kOwesCreditUpdate;
      return Action::kNone;
    default:
      return Drop(VsockDrop::kWrongState);
  }
}

VsockConnection::Action VsockConnection::OnPacketClosing(const VsockHeader& header) {
  if (header.op == kVsockOpRw) return Drop(VsockDrop::kAfterShutdown);
  if (header.op != kVsockOpShutdown) return Action::kNone;
  // Both sides closed at the same time: somebody has to reset.
  peer_shutdown_ |= header.flags & kShutdownBoth;
  if (peer_shutdown_ != kShutdownBoth) return Action::kNone;
  Reset();
  return Action::kNone;
}

VsockConnection::Action VsockConnection::Drop(VsockDrop why) {
  last_drop_ = why;
  return Action::kDropped;
}

VsockConnection::Action VsockConnection::Break(VsockDrop why) {
  last_drop_ = why;
  Reset();
  return Action::kReset;
}

VsockConnection::Action VsockConnection::Gone() {
  state_ = State::kClosed;
  owed_ = 0;
  return Action::kGone;
}

// ---- From the host -----------------------------------------------------------------------------

void VsockConnection::Dialled() {
  if (state_ != State::kDialling) return;
  state_ = State::kEstablished;
  owed_ |= kOwesResponse;
}

void VsockConnection::Forwarded(uint32_t bytes) {
  receive_.Forward(bytes);
  if (state_ == State::kEstablished && receive_.worth_telling()) owed_ |= kOwesCreditUpdate;
}

void VsockConnection::HostShutdown(bool send, bool receive) {
  if (state_ != State::kEstablished) return;
  const uint32_t flags =
      (send ? kVsockShutdownSend : 0) | (receive ? kVsockShutdownReceive : 0) | host_shutdown_;
  if (flags == host_shutdown_) return;
  host_shutdown_ = flags;
  owed_ |= kOwesShutdown;
  if (host_shutdown_ == kShutdownBoth) {
    state_ = State::kClosing;
    owed_ &= static_cast<uint8_t>(~(kOwesCreditUpdate | kOwesCreditRequest));
  }
}

void VsockConnection::Reset() {
  if (state_ == State::kClosed) return;
  state_ = State::kResetting;
  owed_ = kOwesReset;
}

void VsockConnection::Stalled() {
  if (state_ != State::kEstablished || asked_for_credit_) return;
  asked_for_credit_ = true;
  owed_ |= kOwesCreditRequest;
}

// ---- To the guest ------------------------------------------------------------------------------

VsockHeader VsockConnection::MakeHeader(uint16_t op) {
  VsockHeader header{};
  header.src_cid = kVsockHostCid;
  header.dst_cid = guest_cid_;
  header.src_port = ports_.host;
  header.dst_port = ports_.guest;
  header.type = static_cast<uint16_t>(type_);
  header.op = op;
  header.buf_alloc = receive_.buffer_bytes();
  header.fwd_cnt = receive_.forwarded();
  receive_.Told();
  owed_ &= static_cast<uint8_t>(~kOwesCreditUpdate);  // Every header is one.
  return header;
}

std::optional<VsockHeader> VsockConnection::TakeControl() {
  for (const Owed& owed : kInOrder) {
    if ((owed_ & owed.bit) == 0) continue;
    owed_ &= static_cast<uint8_t>(~owed.bit);
    VsockHeader header = MakeHeader(owed.op);
    if (owed.bit == kOwesShutdown) header.flags = host_shutdown_;
    if (owed.bit == kOwesReset) state_ = State::kClosed;
    return header;
  }
  return std::nullopt;
}

uint32_t VsockConnection::sendable() const {
  if (state_ != State::kEstablished) return 0;
  if ((peer_shutdown_ & kVsockShutdownReceive) != 0) return 0;
  if ((host_shutdown_ & kVsockShutdownSend) != 0) return 0;
  return send_.available();
}

VsockHeader VsockConnection::TakeData(uint32_t bytes, uint32_t flags) {
  VsockHeader header = MakeHeader(kVsockOpRw);
  header.len = bytes;
  header.flags = flags;
  send_.Sent(bytes);
  return header;
}

}  // namespace vhost::inprocess

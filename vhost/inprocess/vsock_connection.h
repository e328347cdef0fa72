// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One connection of a socket device, as the protocol sees it: its state, the credit of both
// directions, and which packets it owes the guest. It touches neither rings nor sockets: whoever
// has those (vsock_mux.h) tells it what came and what became of it, and asks what to do.
//
//   guest's REQUEST ----> dialling ---host's socket connected--> established
//   host's client ------> requested ---guest's RESPONSE--------> established
//   established ---both directions shut down by the host side---> closing ---guest's RST--> closed
//   any ---error, refusal, timeout, or both directions shut down by the guest---> resetting
//   resetting ---RST was sent---> closed
//
// A connection owes at most one packet of each kind, so that what it owes is bounded: flags, and no
// queue. Rules are those of virtio 1.3, 5.10.6, and where it leaves room, of Linux.
//
// Thread safety: none; one thread.
#pragma once

#include <cstdint>
#include <optional>

#include "vhost/inprocess/vsock_credit.h"
#include "vhost/inprocess/vsock_packet.h"

namespace vhost::inprocess {

class VsockConnection {
 public:
  enum class State : uint8_t {
    kDialling,
    kRequested,
    kEstablished,
    kClosing,
    kResetting,
    kClosed,
  };

  // What the caller has to do after a packet of the guest.
  enum class Action : uint8_t {
    kNone,         // nothing but to look at wants_to_send() and sendable()
    kDeliver,      // pass the payload on; Forwarded() when it has left
    kEstablished,  // tell the client that it is connected
    kShutdown,     // peer_shutdown() has changed
    kGone,         // the guest reset it: closed
    kReset,        // the guest broke a rule: an RST is owed
    kDropped,      // the packet was not used; see last_drop()
  };

  // A guest's REQUEST came: dialling. `buffer_bytes` is what we hold for the guest's data, at most.
  static VsockConnection FromGuest(const VsockHeader& request, uint32_t buffer_bytes);
  // A client on the host wants `ports.guest`: requested, a REQUEST is owed.
  static VsockConnection FromHost(uint64_t guest_cid, VsockPorts ports, VsockType type,
                                  uint32_t buffer_bytes);

  // ---- What the guest sent ----
  // `header` has passed CheckFromGuest and is of these ports.
  Action OnPacket(const VsockHeader& header);
  // Why, after kReset and kDropped.
  VsockDrop last_drop() const { return last_drop_; }

  // ---- What happened on the host's side ----
  void Dialled();  // dialling only: established, a RESPONSE is owed
  // `bytes` of the guest's data left the buffer (to the host's socket, or nowhere).
  void Forwarded(uint32_t bytes);
  // The host's peer sends no more, all that it sent having been passed on; or receives no more.
  void HostShutdown(bool send, bool receive);
  // Over, for whatever reason: an RST is owed, and nothing else.
  void Reset();
  // There is data for the guest and no credit for it. Owes a CREDIT_REQUEST, once until the credit
  // changes.
  void Stalled();

  // ---- What is owed to the guest ----
  bool wants_to_send() const { return owed_ != 0; }
  // Stalled() was called, and the credit has not grown since.
  bool waits_for_credit() const { return asked_for_credit_; }
  // The next control packet; none if none is owed. Having taken an RST it is closed.
  std::optional<VsockHeader> TakeControl();
  // Bytes of data that may be sent now.
  uint32_t sendable() const;
  // Header of a data packet with `bytes` (at most sendable()); `flags` as of seqpacket.
  VsockHeader TakeData(uint32_t bytes, uint32_t flags = 0);

  State state() const { return state_; }
  bool is_half_open() const { return state_ == State::kDialling || state_ == State::kRequested; }
  VsockPorts ports() const { return ports_; }
  VsockType type() const { return type_; }
  // kVsockShutdownReceive and -Send: what the guest does no more, and what the host's peer does.
  uint32_t peer_shutdown() const { return peer_shutdown_; }
  uint32_t host_shutdown() const { return host_shutdown_; }
  const VsockSendCredit& send_credit() const { return send_; }
  const VsockReceiveCredit& receive_credit() const { return receive_; }

  // For tests of counts that run over: as if so many bytes had gone each way.
  void StartCountsAt(uint32_t sent, uint32_t received);

 private:
  VsockConnection(uint64_t guest_cid, VsockPorts ports, VsockType type, uint32_t buffer_bytes)
      : guest_cid_(guest_cid), ports_(ports), type_(type), receive_(buffer_bytes) {}

  VsockHeader MakeHeader(uint16_t op);
  Action OnPacketEstablished(const VsockHeader& header);
  Action OnPacketClosing(const VsockHeader& header);
  Action Drop(VsockDrop why);
  Action Break(VsockDrop why);  // the same, and a reset
  Action Gone();

  uint64_t guest_cid_;
  VsockPorts ports_;
  VsockType type_;
  State state_ = State::kDialling;
  VsockDrop last_drop_ = VsockDrop::kWrongState;
  uint8_t owed_ = 0;  // a bit for each kind of control packet
  bool asked_for_credit_ = false;
  uint32_t peer_shutdown_ = 0;
  uint32_t host_shutdown_ = 0;
  VsockSendCredit send_;
  VsockReceiveCredit receive_;
};

const char* Name(VsockConnection::State state);

}  // namespace vhost::inprocess

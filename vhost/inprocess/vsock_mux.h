// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// All connections of one socket device: between its two virtqueues and the unix sockets of the host
// (vsock_host.h). What a packet means is VsockConnection's matter, what moves bytes VsockLink's;
// here is who is served when, and that nothing grows.
//
//   guest -> host   Each chain of the transmit queue is one packet: it is checked, goes to its
//                   connection, and is returned in the same burst. What one stream sends in a burst
//                   is written at once. A slow socket holds the bytes that its
//                   connection's credit covers, and stops the guest by giving no credit back.
//   host -> guest   Connections that have something for the guest (a control packet that they owe,
//                   or a socket with data and credit for it) wait in a queue and are served in
//                   turn, a burst each. Receive buffers are taken first and sockets read then, into
//                   them: no buffer, no read, and the host's writers wait in their own sockets.
//
// Resets for packets that belong to no connection wait in a queue with a bound; when it is full no
// packet of the guest is taken before it has given receive buffers for them.
//
// Thread safety: none; one thread at a time.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/inprocess/virtqueue.h"
#include "vhost/inprocess/vsock_host.h"
#include "vhost/inprocess/vsock_limits.h"
#include "vhost/inprocess/vsock_link.h"
#include "vhost/inprocess/vsock_packet.h"
#include "vhost/packet_capture.h"

namespace vhost::inprocess {

struct VsockMuxOptions {
  uint64_t guest_cid = 0;
  VsockLimits limits;
  PacketCapture* capture = nullptr;  // lent: whoever looks at the packets; nullptr: nobody can
  // For tests. Must not go backwards.
  std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
};

// Counts since the creation.
struct VsockQueueStats {
  uint64_t packets = 0;
  uint64_t bytes = 0;  // of payload
  uint64_t calls = 0;
  uint64_t suppressed_calls = 0;
  std::array<uint64_t, static_cast<size_t>(VsockDrop::kCount)> drops{};
  void Drop(VsockDrop why, uint64_t count = 1) { drops[static_cast<size_t>(why)] += count; }
};
struct VsockStats {
  VsockQueueStats to_guest;      // the receive queue
  VsockQueueStats from_guest;    // the transmit queue
  uint64_t connections = 0;      // that were established
  uint64_t garbage_clients = 0;  // that did not say CONNECT, or not in time
  uint64_t buffered_bytes = 0;   // held now, in all backlogs
};

class VsockMux {
 public:
  using Clock = std::chrono::steady_clock;

  static absl::StatusOr<std::unique_ptr<VsockMux>> Create(const VsockMuxOptions& options,
                                                          std::unique_ptr<VsockHost> host);
  ~VsockMux();
  VsockMux(const VsockMux&) = delete;
  VsockMux& operator=(const VsockMux&) = delete;

  // Serves these queues (lent) until Detach. nullptr: that one is not served, and the other is as
  // far as it can be. No chain is held between two calls of Poll.
  void Attach(Virtqueue* receive, Virtqueue* transmit, bool seqpacket_acked);
  void Detach() { Attach(nullptr, nullptr, seqpacket_acked_); }

  // Does a burst of whatever is to be done; false if nothing was.
  bool Poll();
  // Asks the driver for kicks; true if more is to be done already.
  bool Arm();
  // An epoll fd that is readable when something happened to a socket. After that: NoteEvents().
  int event_fd() const { return epoll_.get(); }
  void NoteEvents() { events_pending_ = true; }
  // When Poll has something to do although nothing else happens.
  std::optional<Clock::time_point> deadline() const;

  // Ends all connections without a word to the guest, which has been reset, or is told by a
  // transport reset. Processes at the other ends see the end of the stream, or ECONNRESET.
  void DropConnections();

  size_t connections() const { return links_.size(); }
  // Those without an answer, and clients that have not said yet where they want to go.
  size_t half_open() const { return dialling_ + half_open_clients(); }
  const VsockStats& stats() const { return stats_; }
  // Calls `see(link)` for each connection.
  void ForEachLink(const std::function<void(const VsockLink&)>& see) const;
  // For tests: the connection of these ports, nullptr if there is none.
  VsockLink* FindLink(VsockPorts ports) const;

 private:
  // A client that connected and has not said CONNECT yet.
  struct Client {
    kernel_abi::UniqueFd fd;
    VsockType type;
    Clock::time_point deadline;
  };
  struct PortsHash {
    uint64_t seed;
    size_t operator()(const VsockPorts& ports) const;
  };
  static constexpr uint32_t kMaxBurst = 32;  // receive buffers for one read
  static constexpr size_t kMaxPieces = 256;  // iovecs for one read

  VsockMux(const VsockMuxOptions& options, std::unique_ptr<VsockHost> host,
           kernel_abi::UniqueFd epoll, uint64_t seed);

  // vsock_mux.cc: packets of the guest, and the life of connections.
  bool ServeTransmit();
  void OnChain(Chain& chain);
  void OnRequest(const VsockHeader& header);
  void OnPacket(VsockLink& link, const VsockHeader& header, Chain& chain);
  // Payload of one connection, of chains that follow each other, is gathered and then written at
  // once, before anything else happens to that connection.
  bool MayFollowGathered(const VsockHeader& header, const Chain& chain) const;
  void AppendPayload(uint32_t bytes, const Chain& chain);
  void DeliverGathered(bool ends_message = false);
  void Refuse(const VsockHeader& header, VsockDrop why);
  // The window of one connection more; nullopt if there are no bytes left for it.
  std::optional<uint32_t> ChooseWindow(VsockType type) const;
  VsockLink* AddLink(uint64_t id, const VsockConnection& connection, kernel_abi::UniqueFd fd);
  // Brings everything in line after anything happened to `link`, which may be gone afterwards.
  void Settle(VsockLink& link);
  void Destroy(VsockLink& link);
  void Enqueue(VsockLink& link);
  void Dequeue(VsockLink& link);

  bool is_looked_at() const { return options_.capture != nullptr && options_.capture->is_on(); }
  // Shows a packet to whoever captures; `pieces` are its chain's.
  void Show(int queue, const Chain& chain, const VsockHeader& header, std::span<const iovec> pieces,
            size_t bytes) const;

  // vsock_mux_receive.cc: packets for the guest.
  bool ServeReceive();
  bool TakeBuffer(Chain& chain, uint32_t payload_bytes);
  void PutPacket(Chain& chain, const VsockHeader& header);
  // A burst of what `link` has for the guest. False: it lacks receive buffers.
  bool SendFrom(VsockLink& link);
  bool SendStream(VsockLink& link);
  bool SendMessage(VsockLink& link);
  bool SendMessagePieces(VsockLink& link);
  // Takes buffers for up to `bytes` of payload, at most `most`, and lists their places.
  struct Gathered {
    uint32_t chains = 0;
    size_t pieces = 0;
    uint32_t bytes = 0;
  };
  Gathered Gather(uint32_t bytes, uint32_t most);
  // Makes packets of the `bytes` that were read into what was gathered; the rest is put back.
  void SendGathered(VsockLink& link, const Gathered& gathered, uint32_t bytes);

  // vsock_mux_host.cc: sockets, clients, time.
  bool ServeEvents();
  void AcceptClients(VsockType type);
  void OnClient(uint64_t id, Client& client, uint32_t events);
  void ConnectClient(uint64_t id, Client client, uint32_t port, uint32_t events);
  std::optional<uint32_t> FreeHostPort(uint32_t guest_port);
  void Dial(VsockLink& link);
  void WatchRoom(VsockLink& link);
  absl::Status WatchSocket(int fd, uint64_t id) const;
  void SetDeadline(VsockLink& link, std::optional<Clock::time_point> when);
  bool RunDeadlines();
  void OnDeadline(VsockLink& link);
  size_t half_open_clients() const { return clients_.size() + requested_; }

  const VsockMuxOptions options_;
  const std::unique_ptr<VsockHost> host_;
  const kernel_abi::UniqueFd epoll_;

  Virtqueue* receive_ = nullptr;
  Virtqueue* transmit_ = nullptr;
  bool seqpacket_acked_ = false;
  bool receive_starved_ = false;  // something waits for a receive buffer
  bool receive_kicks_ = true;     // as the driver was last told
  bool transmit_kicks_ = true;

  bool events_pending_ = true;
  std::array<bool, 2> accept_pending_ = {true, true};  // clients may wait at a listener
  uint64_t next_id_;
  uint32_t next_host_port_;
  std::unordered_map<uint64_t, std::unique_ptr<VsockLink>> links_;
  std::unordered_map<VsockPorts, VsockLink*, PortsHash> by_ports_;
  std::unordered_map<uint64_t, Client> clients_;
  std::set<std::pair<Clock::time_point, uint64_t>> deadlines_;  // of links and clients, by id
  std::list<VsockLink*> waiting_;  // those that have something for the guest
  std::deque<VsockHeader> resets_;
  std::vector<kernel_abi::UniqueFd> ended_;  // sockets to close once the guest has been told
  uint64_t reserved_bytes_ = 0;
  size_t requested_ = 0;
  size_t dialling_ = 0;

  std::array<Chain, kMaxBurst> chains_;
  std::array<uint32_t, kMaxBurst> chain_bytes_{};
  std::array<iovec, kMaxPieces> pieces_;
  VsockLink* gathered_link_ = nullptr;  // null outside ServeTransmit
  std::vector<Chain> gathered_;
  std::vector<iovec> payload_;  // of those
  uint32_t gathered_bytes_ = 0;
  VsockStats stats_;
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One connection with its unix socket: what moves bytes between guest memory and the host. The
// guest's pages are the I/O vectors; bytes are copied only where the host's socket takes no more
// (VsockBacklog, within the connection's credit), or where a seqpacket message of the host does
// not fit the receive buffers that the guest has given.
//
// The socket is watched edge-triggered: `may_read` and `may_write` are true until a call says
// EAGAIN, and again after an event.
//
// Thread safety: none; one thread.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernel-abi/unique_fd.h"
#include "vhost/inprocess/vsock_backlog.h"
#include "vhost/inprocess/vsock_connection.h"

namespace vhost::inprocess {

class VsockLink {
 public:
  using Clock = std::chrono::steady_clock;

  VsockLink(uint64_t id_in, const VsockConnection& connection_in, kernel_abi::UniqueFd fd)
      : id(id_in), connection(connection_in), fd_(std::move(fd)) {}
  VsockLink(const VsockLink&) = delete;
  VsockLink& operator=(const VsockLink&) = delete;

  // ---- Guest to host ----
  // Passes on a packet's payload, which the connection has accepted, and keeps what the socket does
  // not take. `ends_message` is of seqpacket. A reason if something was not passed on.
  std::optional<VsockDrop> Deliver(std::span<const iovec> payload, bool ends_message);
  // Writes what was kept, as far as the socket takes it.
  std::optional<VsockDrop> Flush();
  // True while something that was kept can be written. An unfinished message cannot.
  bool has_to_write() const {
    return fd_.valid() &&
           (connection.type() == VsockType::kStream ? !backlog_.empty() : backlog_.has_message());
  }
  // True if the socket is to be watched for room.
  bool wants_room() const { return !may_write && has_to_write(); }
  const VsockBacklog& backlog() const { return backlog_; }

  // ---- Host to guest ----
  // True if there may be something to read, and the guest wants it.
  bool CanRead() const;
  // Reads at most the bytes of `into`; stream only. 0: nothing, or the end.
  uint32_t Read(std::span<const iovec> into);
  // Of seqpacket: the length of the next message, which is not 0; nullopt: nothing, or the end.
  // `empty` counts the messages of 0 bytes that were passed over.
  std::optional<uint32_t> NextMessage(uint64_t& empty);
  // Takes it: into `into`, which has room for all of it, or aside. False: it is not there.
  bool ReadMessage(uint32_t bytes, std::span<const iovec> into);
  bool ReadMessageAside(uint32_t bytes);
  // What is left of a message that was taken aside.
  std::span<const std::byte> message_left() const {
    return std::span(message_).subspan(message_sent_);
  }
  void MessageSent(size_t bytes);

  // ---- The socket ----
  // Brings the socket to where the connection is: shuts down what the guest has shut down, closes
  // it where nothing more will come, tells the connection that the host's process went away.
  // Returns a socket that has ended, to be closed when the guest has been told: a process that sees
  // the end may count on the guest's knowing it.
  [[nodiscard]] kernel_abi::UniqueFd Settle();
  void OnEvents(uint32_t events);
  void SetSocket(kernel_abi::UniqueFd fd) { fd_ = std::move(fd); }
  void CloseSocket();
  int fd() const { return fd_.get(); }
  bool has_socket() const { return fd_.valid(); }

  const uint64_t id;
  VsockConnection connection;
  bool may_read = false;
  bool may_write = true;
  uint64_t bytes_from_guest = 0;  // passed on
  uint64_t bytes_to_guest = 0;

  // ---- The owner's notes ----
  uint64_t reserved_bytes = 0;  // of the device's buffers
  uint32_t burst = 1;           // receive buffers that the next read is given
  bool by_guest = false;        // the guest asked for it
  bool counted_half_open = false;
  bool lingers = false;  // gone for the guest; the backlog is not written yet
  bool watched_for_room = false;
  std::optional<Clock::time_point> deadline;
  Clock::time_point give_up_at{};  // dialling: when no other attempt is made
  // The link's place in a queue of those that have something for the guest: its one element is
  // either here or there, and `position` is where, always.
  std::list<VsockLink*> place{this};
  const std::list<VsockLink*>::iterator position = place.begin();
  bool queued = false;

 private:
  std::optional<VsockDrop> DeliverStream(std::span<const iovec> payload, uint32_t bytes);
  std::optional<VsockDrop> DeliverMessage(std::span<const iovec> payload, uint32_t bytes,
                                          bool ends_message);
  // Bytes that the socket took; 0 if none now. nullopt: it takes none any more.
  std::optional<uint32_t> Write(std::span<const iovec> pieces);
  void WriteEnded();
  void EndWhatTheGuestEnded(uint32_t shutdown_flags);
  void ReadFailed();

  kernel_abi::UniqueFd fd_;
  VsockBacklog backlog_;
  std::vector<std::byte> message_;
  size_t message_sent_ = 0;
  bool read_ended_ = false;
  bool write_ended_ = false;
  bool reads_end_soon_ = false;  // the peer shut down: no event will tell of it again
  bool hung_up_ = false;
};

}  // namespace vhost::inprocess

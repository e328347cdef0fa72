// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One channel of vhost-user messages over a unix stream socket; front ends and back ends use the
// same. It carries the requests of one side and the replies of the other, whole and checked.
//
// The peer may lie, stall or die: nothing here waits beyond its deadline, reads more than a message
// can have, raises a signal or keeps an fd that came with a message that was refused. After any
// error but "nothing there yet" the two sides cannot be sure to mean the same byte any more: the
// socket is shut down, and every call answers that first error from then on.
//
// Thread safety: none; calls are made one at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/user/message.h"
#include "vhost/user/protocol.h"

namespace vhost::user {

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Which end of a channel this is: the one that makes requests, or the one that answers them.
enum class Role : uint8_t { kRequester, kServer };

class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  using Deadline = Clock::time_point;

  // Takes a connected socket and makes it non-blocking. `name` stands in messages, for the peer:
  // the path of the socket. `set`: whose requests are made here. A requester is sent replies only,
  // a server requests only: the other kind is refused.
  Connection(kernel_abi::UniqueFd socket, RequestSet set, Role role, std::string name);
  Connection(Connection&&) = default;
  Connection& operator=(Connection&&) = default;

  // The two ends of a new channel, for BACKEND_REQ.
  static absl::StatusOr<std::pair<kernel_abi::UniqueFd, kernel_abi::UniqueFd>> MakeSockets();

  const std::string& name() const { return name_; }
  // For poll and event loops: readable when Receive may have something. -1 after Close.
  int fd() const { return socket_.get(); }
  // Why it is of no use any more; OK while it is.
  const absl::Status& status() const { return broken_; }
  // Who is at the other end, as the kernel noted it at connect time; nullopt: it cannot tell.
  std::optional<PeerCredentials> peer() const;

  // Sends the message with `fds`, lent, in one piece. DEADLINE_EXCEEDED: the peer does not read.
  // UNAVAILABLE: it is gone.
  absl::Status Send(const Message& message, std::span<const int> fds, Deadline deadline);
  absl::Status Send(const Message& message, Deadline deadline) {
    return Send(message, {}, deadline);
  }

  // The next message, checked (message.h), or nullopt if it is not here in full yet. Never waits.
  absl::StatusOr<std::optional<Message>> TryReceive();
  // Waits for one. DEADLINE_EXCEEDED: none came, or half of one.
  absl::StatusOr<Message> Receive(Deadline deadline);
  // Sends a request, and waits for the reply to it.
  absl::StatusOr<Message> Call(const Message& request, std::span<const int> fds, Deadline deadline);

  void Close() {
    if (broken_.ok()) broken_ = absl::UnavailableError(name_ + ": the connection was closed");
    Drop();
  }

 private:
  // What has arrived of the next message.
  struct Incoming {
    Header header{};
    size_t bytes = 0;  // of header and payload together
    Message message;
  };

  absl::Status Break(absl::Status why);
  absl::Status CheckIncoming() const;
  void Drop();
  absl::Status Wait(short events, Deadline deadline, const char* what);
  // Reads up to `to.size()` bytes and whatever fds are attached. 0: nothing there.
  absl::StatusOr<size_t> ReadSome(std::span<std::byte> to);

  kernel_abi::UniqueFd socket_;
  RequestSet set_;
  Role role_;
  std::string name_;
  absl::Status broken_;
  Incoming incoming_;
};

}  // namespace vhost::user

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::control {

// Answers one request line (without its newline) with a whole reply (with its newline).
using RequestHandler = std::function<std::string(absl::string_view line)>;

// One client of the control socket. It never waits: it moves what bytes can be moved and says what
// it waits for. What a client can make us keep is bounded: one request line and one reply, since a
// request is not read before the reply to the one before it was taken.
//
//   idle --bytes--> receiving --newline--> replying --all taken--> idle
//
// Each state has a deadline; a client that misses it, or closes, or breaks a rule, is closed.
//
// Thread safety: one thread at a time (the server's event loop).
class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  struct Timeouts {
    Clock::duration idle;      // between requests
    Clock::duration exchange;  // from a request's first byte to its last, and likewise for a reply
  };
  enum class Waits { kForInput, kForOutput, kForNothing };  // the last: close it

  Connection(kernel_abi::UniqueFd fd, const Timeouts& timeouts, Clock::time_point now)
      : fd_(std::move(fd)), timeouts_(timeouts), deadline_(now + timeouts.idle) {}

  int fd() const { return fd_.get(); }
  bool Expired(Clock::time_point now) const { return now >= deadline_; }

  // The socket is ready for what was waited for. Answers at most one request, so that one busy
  // client cannot starve the others.
  Waits Advance(const RequestHandler& handler, Clock::time_point now);

 private:
  enum class State { kIdle, kReceiving, kReplying };

  // False if the connection is of no use any more.
  bool Receive();
  bool Send();
  void Enter(State state, Clock::time_point now);
  void Reply(std::string line, Clock::time_point now);

  kernel_abi::UniqueFd fd_;
  Timeouts timeouts_;
  Clock::time_point deadline_;
  State state_ = State::kIdle;
  std::string input_;
  std::string output_;
  size_t sent_ = 0;  // bytes of output_
  bool end_of_input_ = false;
  bool close_after_reply_ = false;
};

}  // namespace vhost::control

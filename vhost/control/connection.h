// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"

namespace vhost::control {

// What a client gets that asked for events.
struct Subscription {
  std::string id = "null";  // of the request, as JSON: each event bears it
  std::string device;       // only of this one; empty: of all
};

// A whole reply, with its newline. With a subscription the connection is for events from then on.
struct Reply {
  Reply(std::string text) : line(std::move(text)) {}  // NOLINT: most replies are nothing else
  Reply(std::string text, Subscription what)
      : line(std::move(text)), subscription(std::move(what)) {}
  std::string line;
  std::optional<Subscription> subscription;
};

// Answers one request line (without its newline).
using RequestHandler = std::function<Reply(absl::string_view line)>;

// One client of the control socket. It never waits: it moves what bytes can be moved and says what
// it waits for. What a client can make us keep is bounded: one request line and one reply, since a
// request is not read before the reply to the one before it was taken.
//
//   idle --bytes--> receiving --newline--> replying --all taken--> idle
//                                             '--a subscription--> streaming
//
// Each state has a deadline; a client that misses it, or closes, or breaks a rule, is closed. A
// client that streams asks nothing any more; events that it is too slow to take are dropped, the
// oldest first, and the next that it gets says how many.
//
// Thread safety: one thread at a time (the server's event loop).
class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  struct Timeouts {
    Clock::duration idle;      // between requests
    Clock::duration exchange;  // from a request's first byte to its last, and likewise for a reply
  };
  enum class Waits {
    kForInput,
    kForOutput,
    kForEither,   // streaming, with something to send
    kForHangUp,   // streaming to a client that has shut down its side
    kForNothing,  // close it
  };
  // What is kept of events for a client that does not take them.
  static constexpr size_t kMostEvents = 256;
  static constexpr size_t kMostEventBytes = 256 << 10;  // of all; a single one may be longer

  Connection(kernel_abi::UniqueFd fd, const Timeouts& timeouts, Clock::time_point now)
      : fd_(std::move(fd)), timeouts_(timeouts), deadline_(now + timeouts.idle) {}

  int fd() const { return fd_.get(); }
  bool Expired(Clock::time_point now) const { return now >= deadline_; }

  // The socket is ready for what was waited for. Answers at most one request, so that one busy
  // client cannot starve the others.
  Waits Advance(const RequestHandler& handler, Clock::time_point now);

  bool is_subscribed() const { return subscription_.has_value(); }
  // An event of `device`, as JSON, for a client that has asked for it; `dropped` never came to us.
  // nullopt: this client waits for what it waited for before.
  std::optional<Waits> Offer(absl::string_view device, absl::string_view event, uint64_t dropped,
                             Clock::time_point now);

 private:
  enum class State { kIdle, kReceiving, kReplying, kStreaming };

  // False if the connection is of no use any more.
  bool Receive();
  bool Send();
  void Enter(State state, Clock::time_point now);
  void StartReply(std::string line, Clock::time_point now);
  Waits Stream(Clock::time_point now);
  // Takes what the client of a stream says: nothing is allowed but to shut down its side.
  bool HearStreaming();

  kernel_abi::UniqueFd fd_;
  Timeouts timeouts_;
  Clock::time_point deadline_;
  State state_ = State::kIdle;
  std::string input_;
  std::string output_;
  size_t sent_ = 0;  // bytes of output_
  bool end_of_input_ = false;
  bool close_after_reply_ = false;
  std::optional<Subscription> subscription_;  // in force once the reply was taken
  std::deque<std::string> events_;            // JSON, behind what is in output_
  size_t event_bytes_ = 0;                    // of events_
  uint64_t dropped_ = 0;                      // events that were older than those
};

}  // namespace vhost::control

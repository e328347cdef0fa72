// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/connection.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vhost/control/protocol.h"

namespace vhost::control {

Connection::Waits Connection::Advance(const RequestHandler& handler, Clock::time_point now) {
  if (state_ == State::kReplying) {
    if (!Send()) return Waits::kForNothing;
    if (sent_ < output_.size()) return Waits::kForOutput;
    if (close_after_reply_) return Waits::kForNothing;
    output_.clear();
    Enter(input_.empty() ? State::kIdle : State::kReceiving, now);
  }

  size_t newline = input_.find('\n');
  if (newline == std::string::npos && !end_of_input_) {
    if (!Receive()) return Waits::kForNothing;
    if (state_ == State::kIdle && !input_.empty()) Enter(State::kReceiving, now);
    newline = input_.find('\n');
  }

  if (newline != std::string::npos) {
    Reply(handler(absl::string_view(input_).substr(0, newline)), now);
    input_.erase(0, newline + 1);
  } else if (input_.size() >= kMaxRequestBytes) {
    // Where the next request starts cannot be known any more.
    close_after_reply_ = true;
    Reply(ErrorLine("null", absl::ResourceExhaustedError(
                                absl::StrCat("request: longer than ", kMaxRequestBytes, " bytes"))),
          now);
  } else if (end_of_input_) {
    if (input_.empty()) return Waits::kForNothing;
    close_after_reply_ = true;
    Reply(ErrorLine("null", absl::InvalidArgumentError("request: ended without a newline")), now);
  }

  if (state_ != State::kReplying) return Waits::kForInput;
  // Most replies fit into the socket's buffer, and most clients wait for them: try at once. What
  // stands in our own buffer by then wakes nobody, so ask to be called again as soon as can be.
  if (!Send()) return Waits::kForNothing;
  if (sent_ == output_.size() && close_after_reply_) return Waits::kForNothing;
  return Waits::kForOutput;
}

bool Connection::Receive() {
  char buffer[kMaxRequestBytes];
  const ssize_t count = recv(fd_.get(), buffer, kMaxRequestBytes - input_.size(), MSG_DONTWAIT);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0) end_of_input_ = true;
  input_.append(buffer, static_cast<size_t>(count));
  return true;
}

bool Connection::Send() {
  while (sent_ < output_.size()) {
    // MSG_NOSIGNAL: a client that is gone must not cost the VMM a SIGPIPE.
    const ssize_t count = send(fd_.get(), output_.data() + sent_, output_.size() - sent_,
                               MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    sent_ += static_cast<size_t>(count);
  }
  return true;
}

void Connection::Enter(State state, Clock::time_point now) {
  state_ = state;
  deadline_ = now + (state == State::kIdle ? timeouts_.idle : timeouts_.exchange);
}

void Connection::Reply(std::string line, Clock::time_point now) {
  output_ = std::move(line);
  sent_ = 0;
  Enter(State::kReplying, now);
}

}  // namespace vhost::control

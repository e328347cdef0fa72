// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vhost/control/protocol.h"

namespace vhost::control {

Connection::Waits Connection::Advance(const RequestHandler& handler, Clock::time_point now) {
  if (state_ == State::kStreaming) return Stream(now);
  if (state_ == State::kReplying) {
    if (!Send()) return Waits::kForNothing;
    if (sent_ < output_.size()) return Waits::kForOutput;
    if (close_after_reply_) return Waits::kForNothing;
    output_.clear();
    sent_ = 0;
    if (subscription_.has_value()) {
      Enter(State::kStreaming, now);
      return input_.empty() ? Stream(now) : Waits::kForNothing;
    }
    Enter(input_.empty() ? State::kIdle : State::kReceiving, now);
  }

  size_t newline = input_.find('\n');
  if (newline == std::string::npos && !end_of_input_) {
    if (!Receive()) return Waits::kForNothing;
    if (state_ == State::kIdle && !input_.empty()) Enter(State::kReceiving, now);
    newline = input_.find('\n');
  }

  if (newline != std::string::npos) {
    Reply reply = handler(absl::string_view(input_).substr(0, newline));
    subscription_ = std::move(reply.subscription);
    StartReply(std::move(reply.line), now);
    input_.erase(0, newline + 1);
  } else if (input_.size() >= kMaxRequestBytes) {
    // Where the next request starts cannot be known any more.
    close_after_reply_ = true;
    StartReply(ErrorLine("null", absl::ResourceExhaustedError(absl::StrCat(
                                     "request: longer than ", kMaxRequestBytes, " bytes"))),
               now);
  } else if (end_of_input_) {
    if (input_.empty()) return Waits::kForNothing;
    close_after_reply_ = true;
    StartReply(ErrorLine("null", absl::InvalidArgumentError("request: ended without a newline")),
               now);
  }

  if (state_ != State::kReplying) return Waits::kForInput;
  // Most replies fit into the socket's buffer, and most clients wait for them: try at once. What
  // stands in our own buffer by then wakes nobody, so ask to be called again as soon as can be.
  if (!Send()) return Waits::kForNothing;
  if (sent_ == output_.size() && close_after_reply_) return Waits::kForNothing;
  return Waits::kForOutput;
}

bool Connection::HearStreaming() {
  if (!end_of_input_) {
    char byte;
    const ssize_t count = recv(fd_.get(), &byte, 1, MSG_DONTWAIT);
    if (count > 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    end_of_input_ = true;
  }
  // It may have shut down its side alone and go on reading.
  pollfd state{fd_.get(), 0, 0};
  return poll(&state, 1, 0) >= 0 && (state.revents & (POLLHUP | POLLERR)) == 0;
}

Connection::Waits Connection::Stream(Clock::time_point now) {
  if (!HearStreaming()) return Waits::kForNothing;
  bool progress = false;
  while (true) {
    if (sent_ == output_.size()) {
      output_.clear();
      sent_ = 0;
      if (events_.empty()) {
        deadline_ = Clock::time_point::max();  // It is as fast as it can be.
        return end_of_input_ ? Waits::kForHangUp : Waits::kForInput;
      }
      output_ = EventLine(subscription_->id, events_.front(), std::exchange(dropped_, 0));
      event_bytes_ -= events_.front().size();
      events_.pop_front();
    }
    const size_t before = sent_;
    if (!Send()) return Waits::kForNothing;
    progress |= sent_ > before;
    if (sent_ == output_.size()) continue;
    // It may be slow, but it is to take something now and then.
    if (progress || deadline_ == Clock::time_point::max()) deadline_ = now + timeouts_.idle;
    return end_of_input_ ? Waits::kForOutput : Waits::kForEither;
  }
}

std::optional<Connection::Waits> Connection::Offer(absl::string_view device,
                                                   absl::string_view event, uint64_t dropped,
                                                   Clock::time_point now) {
  if (!subscription_.has_value()) return std::nullopt;
  dropped_ += dropped;
  if (!subscription_->device.empty() && subscription_->device != device) return std::nullopt;
  while (!events_.empty() &&
         (events_.size() >= kMostEvents || event_bytes_ + event.size() > kMostEventBytes)) {
    event_bytes_ -= events_.front().size();
    events_.pop_front();
    ++dropped_;
  }
  events_.emplace_back(event);
  event_bytes_ += event.size();
  // While the reply is not taken yet, events wait behind it.
  if (state_ != State::kStreaming) return std::nullopt;
  return Stream(now);
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
  deadline_ = state == State::kStreaming
                  ? Clock::time_point::max()
                  : now + (state == State::kIdle ? timeouts_.idle : timeouts_.exchange);
}

void Connection::StartReply(std::string line, Clock::time_point now) {
  output_ = std::move(line);
  sent_ = 0;
  Enter(State::kReplying, now);
}

}  // namespace vhost::control

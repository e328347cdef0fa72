// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Asking the processes behind control sockets. What they answer is not trusted: its size and the
// time for it are bounded, and Printable() stands between their strings and a terminal.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {

inline constexpr absl::Duration kAnswerTimeout = absl::Seconds(5);
inline constexpr size_t kMaxReplyBytes = 16 << 20;

// The result of one request to the process at `socket`, as JSON. UNAVAILABLE: nobody listens there;
// DEADLINE_EXCEEDED: no answer in time; otherwise what the other side answered.
absl::StatusOr<std::string> Ask(const std::string& socket, const control::Request& request,
                                absl::Duration timeout = kAnswerTimeout);

// Who listens at the other end, as the kernel says: a process may say of itself what it likes.
// nullopt: not to be known, or it is this process (which a test lets speak for others).
std::optional<pid_t> ServerPid(int fd);

// One socket's answer.
struct Answer {
  std::string socket;
  absl::StatusOr<std::string> result;
  std::chrono::steady_clock::time_point when;  // it came
};
// Of the one socket that was named, of those in the directory that was named, or of all that can be
// found: all at the same time, so that it takes no longer than one of them. Sockets that dead
// processes left are passed over unless named.
std::vector<Answer> AskAll(const Invocation& invocation, const control::Request& request);

// `text` with all that could steer a terminal written as \x1b and the like.
std::string Printable(absl::string_view text);

}  // namespace vhost::ctl

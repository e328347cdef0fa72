// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/control/listener.h"
#include "vhost/control/runtime_directory.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostAskedAtOnce = 64;

absl::Status Wait(const std::string& socket, const UniqueFd& fd, short events,
                  absl::Time deadline) {
  while (true) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    pollfd ready{fd.get(), events, 0};
    const int count = left_ms <= 0 ? 0 : poll(&ready, 1, static_cast<int>(left_ms));
    if (count > 0) return absl::OkStatus();
    if (count == 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(socket, ": no answer in time; its event loop may be stuck"));
    }
    if (errno != EINTR) {
      return kernel_abi::MakeSystemError({.error = errno, .subject = socket, .call = "poll"});
    }
  }
}

absl::Status SendAll(const std::string& socket, const UniqueFd& fd, absl::string_view text,
                     absl::Time deadline) {
  while (!text.empty()) {
    const ssize_t count = send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) {
      text.remove_prefix(static_cast<size_t>(count));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return absl::OkStatus();  // The reply that was sent before the close says why.
    } else if (errno == EAGAIN) {
      absl::Status waited = Wait(socket, fd, POLLOUT, deadline);
      if (!waited.ok()) return waited;
    } else if (errno != EINTR) {
      return kernel_abi::MakeSystemError({.error = errno, .subject = socket, .call = "send"});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveLine(const std::string& socket, const UniqueFd& fd,
                                        absl::Time deadline) {
  std::string line;
  std::vector<char> buffer(64 << 10);
  while (line.size() <= kMaxReplyBytes) {
    absl::Status waited = Wait(socket, fd, POLLIN, deadline);
    if (!waited.ok()) return waited;
    const ssize_t count = recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) {
      return absl::UnavailableError(absl::StrCat(socket, ": closed before it had answered"));
    }
    const char* begin = buffer.data();
    const char* end = begin + count;
    const char* newline = std::find(begin, end, '\n');
    line.append(begin, newline);
    if (newline != end) return line;
  }
  return absl::DataLossError(
      absl::StrCat(socket, ": the answer is longer than ", kMaxReplyBytes, " bytes"));
}

}  // namespace

absl::StatusOr<std::string> Ask(const std::string& socket, const control::Request& request,
                                absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const absl::StatusOr<UniqueFd> fd = control::Connect(socket);
  if (!fd.ok()) return fd.status();
  absl::Status sent = SendAll(socket, *fd, control::RequestLine(request), deadline);
  if (!sent.ok()) return sent;
  const absl::StatusOr<std::string> line = ReceiveLine(socket, *fd, deadline);
  if (!line.ok()) return line.status();
  return control::ParseReply(*line, ServerPid(fd->get()));
}

std::optional<pid_t> ServerPid(int fd) {
  const std::optional<pid_t> pid = control::ServerPid(fd);
  return pid == getpid() ? std::nullopt : pid;
}

std::vector<Answer> AskAll(const Invocation& invocation, const control::Request& request) {
  if (!invocation.socket.empty()) {
    absl::StatusOr<std::string> result = Ask(invocation.socket, request);
    return {{invocation.socket, std::move(result), Clock::now()}};
  }
  const std::vector<std::string> paths = invocation.directory.empty()
                                             ? control::FindSockets()
                                             : control::SocketsIn(invocation.directory);
  // All at once, since one that does not answer would keep the rest waiting.
  std::vector<std::optional<Answer>> asked(paths.size());
  std::atomic<size_t> next = 0;
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < std::min(paths.size(), kMostAskedAtOnce); ++i) {
      threads.emplace_back([&] {
        for (size_t mine = next++; mine < paths.size(); mine = next++) {
          absl::StatusOr<std::string> result = Ask(paths[mine], request);
          asked[mine] = Answer{paths[mine], std::move(result), Clock::now()};
        }
      });
    }
  }
  std::vector<Answer> answers;
  for (std::optional<Answer>& answer : asked) {
    if (absl::IsUnavailable(answer->result.status())) continue;
    answers.push_back(*std::move(answer));
  }
  return answers;
}

std::string Printable(absl::string_view text) {
  std::string safe;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F, also control characters
      absl::StrAppendFormat(&safe, "\\x%02x", next);
      ++i;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&safe, "\\x%02x", byte);
    } else {
      safe.push_back(text[i]);
    }
  }
  return safe;
}

}  // namespace vhost::ctl

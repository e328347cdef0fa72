// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_host.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/system_error.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::UniqueFd;

constexpr size_t kLongestSuffix = sizeof("_4294967295") - 1;
static_assert(kLongestSuffix >= sizeof(".seqpacket") - 1);
constexpr int kBacklog = 128;
// "CONNECT 4294967295\r\n" has 20 bytes.
constexpr size_t kLongestLine = 32;
// A receiver's buffer in the kernel for messages as long as our windows; the kernel's own limit
// (net.core.wmem_max) may make it less.
constexpr int kSendBufferBytes = 1 << 20;

int SocketType(VsockType type) { return type == VsockType::kStream ? SOCK_STREAM : SOCK_SEQPACKET; }

// What a socket needs whose data is exchanged with a guest. That a message came and not the end is
// told by the credentials that come with a message only (both have 0 bytes).
void Prepare(int fd, VsockType type) {
  if (type != VsockType::kSeqpacket) return;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VsockHost>> VsockHost::Create(const VsockHostOptions& options) {
  const std::string& path = options.uds_path;
  if (path.empty() || path.size() > kMaxUnixPathBytes - kLongestSuffix) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "uds_path %s: 1 to %d bytes can be, so that \"_<port>\" fits behind it; this has %d", path,
        kMaxUnixPathBytes - kLongestSuffix, path.size()));
  }
  UnixListenerOptions listen{
      .type = SOCK_STREAM, .mode = options.mode, .group = options.group, .backlog = kBacklog};
  absl::StatusOr<UnixListener> stream = UnixListener::Create(path, listen);
  if (!stream.ok()) return stream.status();
  listen.type = SOCK_SEQPACKET;
  absl::StatusOr<UnixListener> seqpacket =
      UnixListener::Create(absl::StrCat(path, ".seqpacket"), listen);
  if (!seqpacket.ok()) return seqpacket.status();
  return absl::WrapUnique(new VsockHost(path, *std::move(stream), *std::move(seqpacket)));
}

absl::StatusOr<std::optional<UniqueFd>> VsockHost::Accept(VsockType type) {
  UniqueFd fd(accept4(listener_fd(type), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid()) {
    Prepare(fd.get(), type);
    return std::optional<UniqueFd>(std::move(fd));
  }
  switch (const int error = errno; error) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
      return std::optional<UniqueFd>();
    default:
      return kernel_abi::MakeSystemError(
          {.error = error, .subject = listener(type).path(), .call = "accept"});
  }
}

absl::StatusOr<UniqueFd> VsockHost::Dial(VsockType type, uint32_t port) const {
  absl::StatusOr<UniqueFd> fd = ConnectUnix(absl::StrCat(path_, "_", port), SocketType(type));
  if (fd.ok()) Prepare(fd->get(), type);
  return fd;
}

std::optional<uint32_t> ParseConnect(absl::string_view line) {
  line = absl::StripAsciiWhitespace(line);
  constexpr absl::string_view kWord = "connect";
  if (!absl::StartsWithIgnoreCase(line, kWord)) return std::nullopt;
  line.remove_prefix(kWord.size());
  if (line.empty() || !absl::ascii_isspace(static_cast<unsigned char>(line[0]))) {
    return std::nullopt;
  }
  line = absl::StripLeadingAsciiWhitespace(line);
  if (line.empty() || !std::all_of(line.begin(), line.end(),
                                   [](unsigned char c) { return absl::ascii_isdigit(c); })) {
    return std::nullopt;
  }
  uint32_t port = 0;
  if (!absl::SimpleAtoi(line, &port)) return std::nullopt;
  return port;
}

VsockHello ReadConnect(int fd, VsockType type, uint32_t& port) {
  std::array<char, kLongestLine> text;
  // Looked at first: what follows the line is the guest's, and stays in the socket.
  ssize_t count = recv(fd, text.data(), text.size(), MSG_PEEK | MSG_DONTWAIT);
  if (count < 0) {
    return errno == EAGAIN || errno == EINTR ? VsockHello::kIncomplete : VsockHello::kGarbage;
  }
  if (count == 0) return VsockHello::kGarbage;  // It went away.
  size_t length = static_cast<size_t>(count);
  if (type == VsockType::kStream) {
    const auto end = std::find(text.begin(), text.begin() + count, '\n');
    if (end == text.begin() + count) {
      return length < text.size() ? VsockHello::kIncomplete : VsockHello::kGarbage;
    }
    length = static_cast<size_t>(end - text.begin()) + 1;
  }
  if (recv(fd, text.data(), length, MSG_DONTWAIT) != static_cast<ssize_t>(length)) {
    return VsockHello::kGarbage;
  }
  const std::optional<uint32_t> parsed = ParseConnect(absl::string_view(text.data(), length));
  if (!parsed.has_value()) return VsockHello::kGarbage;
  port = *parsed;
  return VsockHello::kPort;
}

bool WriteOk(int fd, uint32_t host_port) {
  const std::string line = absl::StrCat("OK ", host_port, "\n");
  return send(fd, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(line.size());
}

}  // namespace vhost::inprocess

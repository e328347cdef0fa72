// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/metrics/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernel-abi/system_error.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;

constexpr int kBacklog = 64;

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = 0;
};

std::optional<Address> AddressOf(absl::string_view text) {
  const size_t colon = text.rfind(':');
  absl::string_view host = colon == absl::string_view::npos ? "" : text.substr(0, colon);
  const absl::string_view port = colon == absl::string_view::npos ? text : text.substr(colon + 1);
  uint32_t number = 0;
  if (!absl::SimpleAtoi(port, &number) || number > 65535) return std::nullopt;
  Address address;
  if (absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]")) {
    auto* const six = reinterpret_cast<sockaddr_in6*>(&address.bytes);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(static_cast<uint16_t>(number));
    if (inet_pton(AF_INET6, std::string(host).c_str(), &six->sin6_addr) != 1) return std::nullopt;
    address.size = sizeof(*six);
    return address;
  }
  auto* const four = reinterpret_cast<sockaddr_in*>(&address.bytes);
  four->sin_family = AF_INET;
  four->sin_port = htons(static_cast<uint16_t>(number));
  const std::string name =
      host.empty() || host == "localhost" ? std::string("127.0.0.1") : std::string(host);
  if (inet_pton(AF_INET, name.c_str(), &four->sin_addr) != 1) return std::nullopt;
  address.size = sizeof(*four);
  return address;
}

// As it is bound: the port may have been any.
std::string UrlOf(int fd) {
  Address address;
  address.size = sizeof(address.bytes);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address.bytes), &address.size);
  char text[INET6_ADDRSTRLEN] = {};
  if (address.bytes.ss_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(address.bytes);
    inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text));
    return absl::StrCat("http://[", text, "]:", ntohs(six.sin6_port), "/metrics");
  }
  const auto& four = reinterpret_cast<const sockaddr_in&>(address.bytes);
  inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text));
  return absl::StrCat("http://", text, ":", ntohs(four.sin_port), "/metrics");
}

}  // namespace

absl::StatusOr<ListeningSocket> Listen(const std::string& where) {
  absl::string_view path = where;
  if (absl::ConsumePrefix(&path, "unix:")) {
    absl::StatusOr<UnixListener> listener =
        UnixListener::Create(std::string(path), {.mode = 0660, .backlog = kBacklog});
    if (!listener.ok()) return listener.status();
    return ListeningSocket{{}, *std::move(listener), absl::StrCat(where, " /metrics")};
  }
  const std::optional<Address> address = AddressOf(where);
  if (!address.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": must be PORT, ADDR:PORT, [ADDR]:PORT (no names), or unix:PATH"));
  }
  const auto failure = [&where](const char* call) {
    return kernel_abi::MakeSystemError({.error = errno, .subject = where, .call = call});
  };
  UniqueFd fd(socket(address->bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return failure("socket");
  // One that was closed a moment ago does not stand in the way of a restart.
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address->bytes.ss_family == AF_INET6) {
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address->bytes), address->size) != 0) {
    return failure("bind");
  }
  if (listen(fd.get(), kBacklog) != 0) return failure("listen");
  std::string url = UrlOf(fd.get());
  return ListeningSocket{std::move(fd), std::nullopt, std::move(url)};
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {

// The host's side of an interface: frames as text behind an Ethernet header of a type that nobody
// else speaks, so that what the host's own stack sends stays out of the way.
class Wire {
 public:
  static constexpr uint16_t kEtherType = 0x88b5;  // for local experiments (IEEE 802)
  static constexpr size_t kHeaderBytes = 14;

  explicit Wire(int interface)
      : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kEtherType))) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kEtherType);
    address.sll_ifindex = interface;
    ok_ = ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    const int room = 4 << 20;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
  }
  bool ok() const { return ok_; }

  // A frame to everybody, at least 60 bytes long.
  static std::vector<std::byte> Frame(absl::string_view text) {
    std::vector<std::byte> frame(std::max<size_t>(60, kHeaderBytes + text.size()));
    std::memset(frame.data(), 0xff, 6);
    const unsigned char rest[] = {0x52, 0x54, 0, 0, 0, 9, kEtherType >> 8, kEtherType & 0xff};
    std::memcpy(frame.data() + 6, rest, sizeof(rest));
    std::memcpy(frame.data() + kHeaderBytes, text.data(), text.size());
    return frame;
  }
  // What a frame says, up to the padding.
  static std::string Text(const std::byte* frame, size_t size) {
    if (size < kHeaderBytes) return {};
    return std::string(
        reinterpret_cast<const char*>(frame) + kHeaderBytes,
        ::strnlen(reinterpret_cast<const char*>(frame) + kHeaderBytes, size - kHeaderBytes));
  }

  bool Send(absl::string_view text) const {
    const std::vector<std::byte> frame = Frame(text);
    return ::send(socket_.get(), frame.data(), frame.size(), 0) ==
           static_cast<ssize_t>(frame.size());
  }
  std::optional<std::string> Receive(int timeout_ms) const {
    pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    std::byte frame[2048];
    for (;;) {
      if (::poll(&ready, 1, timeout_ms) != 1) return std::nullopt;
      sockaddr_ll from{};
      socklen_t length = sizeof(from);
      const ssize_t size = ::recvfrom(socket_.get(), frame, sizeof(frame), 0,
                                      reinterpret_cast<sockaddr*>(&from), &length);
      if (size < 0) return std::nullopt;
      if (from.sll_pkttype == PACKET_OUTGOING) continue;  // Our own, on its way out.
      return Text(frame, static_cast<size_t>(size));
    }
  }

 private:
  kernel_abi::UniqueFd socket_;
  bool ok_ = false;
};

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <optional>
#include <vector>

#include "kernel-abi/unique_fd.h"
#include "kernel-abi/virtio.h"

namespace vhost {

// The host's side of an interface with offloads: frames of any kind with virtio's header in front
// of them, as the host's stack would hand them on. Receives only what has the source address that
// frames of net_frames_fixture.h have.
class VnetWire {
 public:
  struct Packet {
    kernel_abi::VirtioNetHdr header{};
    std::vector<std::byte> frame;
  };

  explicit VnetWire(int interface)
      : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    const int one = 1;
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = interface;
    ok_ = ::setsockopt(socket_.get(), SOL_PACKET, kPacketVnetHdr, &one, sizeof(one)) == 0 &&
          ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    const int room = 16 << 20;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
  }
  bool ok() const { return ok_; }

  bool Send(const Packet& packet) const {
    std::vector<std::byte> bytes(kHeader + packet.frame.size());
    std::memcpy(bytes.data(), &packet.header, kHeader);
    std::memcpy(bytes.data() + kHeader, packet.frame.data(), packet.frame.size());
    return ::send(socket_.get(), bytes.data(), bytes.size(), 0) ==
           static_cast<ssize_t>(bytes.size());
  }

  std::optional<Packet> Receive(int timeout_ms) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    std::vector<std::byte> bytes(1 << 17);
    while (std::chrono::steady_clock::now() < end) {
      pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&ready, 1, timeout_ms) != 1) break;
      sockaddr_ll from{};
      socklen_t length = sizeof(from);
      const ssize_t size = ::recvfrom(socket_.get(), bytes.data(), bytes.size(), 0,
                                      reinterpret_cast<sockaddr*>(&from), &length);
      if (size < static_cast<ssize_t>(kHeader + 14) || from.sll_pkttype == PACKET_OUTGOING)
        continue;
      const std::byte source[] = {std::byte{0x52}, {}, {}, {}, {}, std::byte{9}};
      if (std::memcmp(bytes.data() + kHeader + 6, source, sizeof(source)) != 0) continue;
      Packet packet;
      std::memcpy(&packet.header, bytes.data(), kHeader);
      packet.frame.assign(bytes.begin() + kHeader, bytes.begin() + size);
      return packet;
    }
    return std::nullopt;
  }

 private:
  static constexpr int kPacketVnetHdr = 15;  // of <linux/if_packet.h>, which the C library's hides
  static constexpr size_t kHeader = kernel_abi::kNetHdrSizeLegacy;
  kernel_abi::UniqueFd socket_;
  bool ok_ = false;
};

}  // namespace vhost

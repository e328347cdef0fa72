// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_packet.h"

#include <cstring>

#include "vhost/inprocess/internet_checksum.h"

namespace vhost::inprocess {
namespace {

uint8_t Byte(const std::byte* at) { return std::to_integer<uint8_t>(*at); }

}  // namespace

std::optional<PacketShape> ParsePacket(std::span<const std::byte> head, size_t frame_bytes) {
  const std::byte* frame = head.data();
  const size_t room = head.size();
  if (room < kEthernetBytes + kIpv4Bytes + kUdpBytes) return std::nullopt;
  size_t l3 = kEthernetBytes;
  uint16_t type = Load16(frame + 12);
  if (type == kEtherTypeVlan) {
    type = Load16(frame + 16);
    l3 += kVlanTagBytes;
  }
  const std::byte* ip = frame + l3;
  size_t l4;
  uint8_t protocol;
  if (type == kEtherTypeIpv4) {
    l4 = l3 + kIpv4Bytes;
    if (room < l4 || Byte(ip) != 0x45) return std::nullopt;
    if (l3 + Load16(ip + kIpv4Length) != frame_bytes) return std::nullopt;
    // Only "don't fragment" may be set.
    if ((Load16(ip + kIpv4Fragment) & ~0x4000u) != 0) return std::nullopt;
    // All ones is another way to write 0, which no sum that is made anew comes to.
    if (FoldSum(SumOf(ip, kIpv4Bytes)) != 0xffff || Load16(ip + kIpv4Checksum) == 0xffff) {
      return std::nullopt;
    }
    protocol = Byte(ip + kIpv4Protocol);
  } else if (type == kEtherTypeIpv6) {
    l4 = l3 + kIpv6Bytes;
    if (room < l4 || Byte(ip) >> 4 != 6) return std::nullopt;
    if (l4 + Load16(ip + kIpv6Length) != frame_bytes) return std::nullopt;
    protocol = Byte(ip + kIpv6NextHeader);
  } else {
    return std::nullopt;
  }
  size_t payload;
  if (protocol == kProtocolTcp) {
    if (room < l4 + kTcpBytes) return std::nullopt;
    const size_t bytes = size_t{Byte(frame + l4 + kTcpDataOffset)} >> 4 << 2;
    payload = l4 + bytes;
    if (bytes < kTcpBytes || payload > room) return std::nullopt;
  } else if (protocol == kProtocolUdp) {
    payload = l4 + kUdpBytes;
    if (payload > room || l4 + Load16(frame + l4 + kUdpLength) != frame_bytes) return std::nullopt;
  } else {
    return std::nullopt;
  }
  if (payload > frame_bytes) return std::nullopt;
  return PacketShape{.l3 = static_cast<uint8_t>(l3),
                     .l4 = static_cast<uint8_t>(l4),
                     .payload = static_cast<uint8_t>(payload),
                     .is_ipv6 = type == kEtherTypeIpv6,
                     .is_tcp = protocol == kProtocolTcp};
}

uint64_t PseudoHeaderSum(const std::byte* frame, const PacketShape& shape, size_t l4_bytes) {
  const uint64_t addresses = shape.is_ipv6 ? SumOf(frame + shape.l3 + kIpv6Source, 32)
                                           : SumOf(frame + shape.l3 + kIpv4Source, 8);
  const uint16_t protocol = shape.is_tcp ? kProtocolTcp : kProtocolUdp;
  // No IPv6 jumbograms here: a length has 17 bits at most, and folds.
  const uint64_t length = uint64_t{NetworkOrder(static_cast<uint16_t>(l4_bytes & 0xffff))} +
                          NetworkOrder(static_cast<uint16_t>(l4_bytes >> 16));
  return AddSums(addresses, length + NetworkOrder(protocol));
}

void SetLengths(std::byte* frame, const PacketShape& shape, size_t ip_header_bytes,
                size_t l4_bytes) {
  std::byte* ip = frame + shape.l3;
  if (shape.is_ipv6) {
    Store16(ip + kIpv6Length, static_cast<uint16_t>(ip_header_bytes - kIpv6Bytes + l4_bytes));
  } else {
    Store16(ip + kIpv4Length, static_cast<uint16_t>(ip_header_bytes + l4_bytes));
    Store16(ip + kIpv4Checksum, 0);
    const auto sum = static_cast<uint16_t>(~FoldSum(SumOf(ip, ip_header_bytes)));
    std::memcpy(ip + kIpv4Checksum, &sum, sizeof(sum));
  }
  if (!shape.is_tcp) {
    Store16(frame + shape.l4 + kUdpLength, static_cast<uint16_t>(l4_bytes));
  }
}

}  // namespace vhost::inprocess

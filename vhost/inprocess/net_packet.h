// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The headers of an Ethernet frame with TCP or UDP in it, as far as merging and cutting must know
// them. What is parsed here has been copied out of guest memory before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace vhost::inprocess {

inline constexpr size_t kEthernetBytes = 14;
inline constexpr size_t kVlanTagBytes = 4;
inline constexpr uint16_t kEtherTypeIpv4 = 0x0800;
inline constexpr uint16_t kEtherTypeIpv6 = 0x86dd;
inline constexpr uint16_t kEtherTypeVlan = 0x8100;

inline constexpr size_t kIpv4Bytes = 20;  // without options
inline constexpr size_t kIpv4Length = 2;  // offsets in the header
inline constexpr size_t kIpv4Id = 4;
inline constexpr size_t kIpv4Fragment = 6;
inline constexpr size_t kIpv4Protocol = 9;
inline constexpr size_t kIpv4Checksum = 10;
inline constexpr size_t kIpv4Source = 12;  // and the destination behind it
inline constexpr size_t kIpv6Bytes = 40;
inline constexpr size_t kIpv6Length = 4;
inline constexpr size_t kIpv6NextHeader = 6;
inline constexpr size_t kIpv6Source = 8;

inline constexpr uint8_t kProtocolTcp = 6;
inline constexpr uint8_t kProtocolUdp = 17;
inline constexpr size_t kTcpBytes = 20;  // without options
inline constexpr size_t kTcpMaxBytes = 60;
inline constexpr size_t kTcpSequence = 4;
inline constexpr size_t kTcpDataOffset = 12;
inline constexpr size_t kTcpFlags = 13;
inline constexpr size_t kTcpChecksum = 16;
inline constexpr size_t kTcpUrgent = 18;
inline constexpr uint8_t kTcpFin = 0x01;
inline constexpr uint8_t kTcpPsh = 0x08;
inline constexpr uint8_t kTcpAck = 0x10;
inline constexpr uint8_t kTcpCwr = 0x80;
inline constexpr size_t kUdpBytes = 8;
inline constexpr size_t kUdpLength = 4;
inline constexpr size_t kUdpChecksum = 6;

// The longest headers that are merged: one VLAN tag, IPv6 without extensions, TCP with all options.
inline constexpr size_t kMaxMergeHeaderBytes =
    kEthernetBytes + kVlanTagBytes + kIpv6Bytes + kTcpMaxBytes;

// Where the headers begin in a frame, in bytes from its start.
struct PacketShape {
  uint8_t l3 = 0;
  uint8_t l4 = 0;
  uint8_t payload = 0;
  bool is_ipv6 = false;
  bool is_tcp = false;  // else UDP

  size_t checksum_offset() const { return is_tcp ? kTcpChecksum : kUdpChecksum; }
};

inline uint16_t Load16(const std::byte* at) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(at[0]) << 8 |
                               std::to_integer<unsigned>(at[1]));
}
inline uint32_t Load32(const std::byte* at) { return uint32_t{Load16(at)} << 16 | Load16(at + 2); }
inline void Store16(std::byte* at, uint16_t value) {
  at[0] = static_cast<std::byte>(value >> 8);
  at[1] = static_cast<std::byte>(value & 0xff);
}
inline void Store32(std::byte* at, uint32_t value) {
  Store16(at, static_cast<uint16_t>(value >> 16));
  Store16(at + 2, static_cast<uint16_t>(value & 0xffff));
}

// The shape of a frame of `frame_bytes` that begins with `head` (all of it, or at least its first
// kMaxMergeHeaderBytes), if it is TCP or UDP in a form that can be put together again exactly: one
// VLAN tag at most, IPv4 without options, fragments or a wrong header checksum, IPv6 without
// extensions, and lengths that agree to the byte.
std::optional<PacketShape> ParsePacket(std::span<const std::byte> head, size_t frame_bytes);

// The sum of the pseudo header for `l4_bytes` of TCP or UDP: not inverted.
uint64_t PseudoHeaderSum(const std::byte* frame, const PacketShape& shape, size_t l4_bytes);

// Sets the lengths in the headers for a packet of `l4_bytes` behind the IP header, and the IP
// header's checksum. The headers begin at `frame`, with `ip_header_bytes` (extensions included).
void SetLengths(std::byte* frame, const PacketShape& shape, size_t ip_header_bytes,
                size_t l4_bytes);

}  // namespace vhost::inprocess

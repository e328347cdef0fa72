// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Builds Ethernet frames for tests of what merges and cuts them, with everything in them right
// unless the test says otherwise.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/internet_checksum.h"
#include "vhost/inprocess/net_packet.h"

namespace vhost::inprocess {

using Bytes = std::vector<std::byte>;

struct FrameSpec {
  bool tcp = true;
  bool ipv6 = false;
  bool vlan = false;
  uint16_t source_port = 1000;
  uint16_t destination_port = 2000;
  uint32_t sequence = 1;
  uint32_t acknowledgement = 77;
  uint8_t flags = kTcpAck;
  uint16_t window = 5000;
  uint16_t urgent = 0;
  Bytes options;  // of TCP; a multiple of 4
  uint16_t id = 100;
  uint8_t tos = 0;
  uint8_t ttl = 64;
  bool dont_fragment = true;
  uint8_t mac = 1;      // last byte of the destination
  uint8_t address = 1;  // last byte of the source address
  uint8_t fill = 7;     // what the payload is made of
  size_t payload = 100;
  bool partial = false;  // leaves the checksum to the device
};

inline PacketShape ShapeOf(const FrameSpec& spec) {
  PacketShape shape{.is_ipv6 = spec.ipv6, .is_tcp = spec.tcp};
  shape.l3 = static_cast<uint8_t>(kEthernetBytes + (spec.vlan ? kVlanTagBytes : 0));
  shape.l4 = static_cast<uint8_t>(shape.l3 + (spec.ipv6 ? kIpv6Bytes : kIpv4Bytes));
  shape.payload =
      static_cast<uint8_t>(shape.l4 + (spec.tcp ? kTcpBytes + spec.options.size() : kUdpBytes));
  return shape;
}

// The header for BuildFrame's frame.
inline kernel_abi::VirtioNetHdr HeaderOf(const FrameSpec& spec) {
  if (!spec.partial) return {};
  const PacketShape shape = ShapeOf(spec);
  return {.flags = kernel_abi::kNetHdrFNeedsCsum,
          .csum_start = shape.l4,
          .csum_offset = static_cast<uint16_t>(shape.checksum_offset())};
}

inline Bytes BuildFrame(const FrameSpec& spec) {
  const PacketShape shape = ShapeOf(spec);
  Bytes frame(shape.payload + spec.payload);
  std::byte* at = frame.data();
  const auto put = [at](size_t offset, uint8_t value) { at[offset] = std::byte{value}; };
  put(0, 0x52);
  put(5, spec.mac);
  put(6, 0x52);
  put(11, 9);
  if (spec.vlan) {
    Store16(at + 12, kEtherTypeVlan);
    Store16(at + 14, 5);
  }
  Store16(at + shape.l3 - 2, spec.ipv6 ? kEtherTypeIpv6 : kEtherTypeIpv4);
  std::byte* ip = at + shape.l3;
  const uint8_t protocol = spec.tcp ? kProtocolTcp : kProtocolUdp;
  if (spec.ipv6) {
    Store16(ip, static_cast<uint16_t>(0x6000 | spec.tos << 4));
    ip[kIpv6NextHeader] = std::byte{protocol};
    ip[7] = std::byte{spec.ttl};
    ip[kIpv6Source] = std::byte{0xfd};
    ip[kIpv6Source + 15] = std::byte{spec.address};
    ip[kIpv6Source + 16] = std::byte{0xfd};
    ip[kIpv6Source + 31] = std::byte{200};
  } else {
    ip[0] = std::byte{0x45};
    ip[1] = std::byte{spec.tos};
    Store16(ip + kIpv4Id, spec.id);
    Store16(ip + kIpv4Fragment, spec.dont_fragment ? 0x4000 : 0);
    ip[8] = std::byte{spec.ttl};
    ip[kIpv4Protocol] = std::byte{protocol};
    Store32(ip + kIpv4Source, 0x0a000000u + spec.address);
    Store32(ip + kIpv4Source + 4, 0x0a0000c8);
  }
  std::byte* l4 = at + shape.l4;
  Store16(l4, spec.source_port);
  Store16(l4 + 2, spec.destination_port);
  if (spec.tcp) {
    Store32(l4 + kTcpSequence, spec.sequence);
    Store32(l4 + 8, spec.acknowledgement);
    l4[kTcpDataOffset] = std::byte(static_cast<uint8_t>((kTcpBytes + spec.options.size()) << 2));
    l4[kTcpFlags] = std::byte{spec.flags};
    Store16(l4 + 14, spec.window);
    Store16(l4 + kTcpUrgent, spec.urgent);
    if (!spec.options.empty()) {
      std::memcpy(l4 + kTcpBytes, spec.options.data(), spec.options.size());
    }
  }
  for (size_t i = 0; i < spec.payload; ++i) {
    at[shape.payload + i] = std::byte(static_cast<uint8_t>(spec.fill + i * 31));
  }
  const size_t l4_bytes = frame.size() - shape.l4;
  SetLengths(at, shape, shape.l4 - size_t{shape.l3}, l4_bytes);
  const uint64_t pseudo = PseudoHeaderSum(at, shape, l4_bytes);
  uint16_t sum = FoldSum(pseudo);
  if (!spec.partial) {
    sum = static_cast<uint16_t>(~FoldSum(AddSums(pseudo, SumOf(l4, l4_bytes))));
    if (sum == 0 && !spec.tcp) sum = 0xffff;
  }
  std::memcpy(l4 + shape.checksum_offset(), &sum, sizeof(sum));
  return frame;
}

// The same bytes cut into pieces, as a driver may lay them out.
inline std::vector<iovec> PiecesOf(Bytes& frame, size_t piece_bytes) {
  std::vector<iovec> pieces;
  for (size_t at = 0; at < frame.size(); at += piece_bytes) {
    pieces.push_back({frame.data() + at, std::min(piece_bytes, frame.size() - at)});
  }
  return pieces;
}

}  // namespace vhost::inprocess

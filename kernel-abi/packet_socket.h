// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What packet sockets (packet(7)) tell of frames, the filters that they take, and the frames of
// vsockmon interfaces. Layouts are the kernel's, asserted in packet_socket.cc.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kernel_abi {

// ---- Packet sockets ----------------------------------------------------------------------------

inline constexpr int kPacketStatistics = 6;  // getsockopt(SOL_PACKET): since the last time
struct PacketStatistics {
  uint32_t packets;  // dropped ones included
  uint32_t drops;
};

inline constexpr int kPacketAuxdata = 8;  // setsockopt; and the type of the control message
struct PacketAuxdata {
  uint32_t status;
  uint32_t length;
  uint32_t snaplen;
  uint16_t mac;
  uint16_t net;
  uint16_t vlan_tci;  // a tag that was taken out of the frame
  uint16_t vlan_tpid;
};
inline constexpr uint32_t kPacketStatusVlanValid = 1 << 4;
inline constexpr uint32_t kPacketStatusVlanTpidValid = 1 << 6;

// A frame that the host sends on the interface: on a TAP, what the guest is to receive.
inline constexpr uint8_t kPacketOutgoing = 4;

// ---- Filters (SO_ATTACH_FILTER) ----------------------------------------------------------------

struct BpfInstruction {
  uint16_t code;
  uint8_t jump_true;
  uint8_t jump_false;
  uint32_t k;
};
struct BpfProgram {
  uint16_t length;
  const BpfInstruction* instructions;
};
inline constexpr uint16_t kBpfLoadWord = 0x20;     // A = big-endian u32 at k
inline constexpr uint16_t kBpfJumpIfEqual = 0x15;  // A == k
inline constexpr uint16_t kBpfReturn = 0x06;       // accept k bytes; 0: drop
// Places that are facts about the frame.
inline constexpr uint32_t kBpfPacketType = 0xfffff004;
inline constexpr uint32_t kBpfQueueMapping = 0xfffff018;

// ---- vsockmon ----------------------------------------------------------------------------------

inline constexpr char kVsockmonLinkType[] = "vsockmon";  // of rtnetlink

// In front of each frame; then comes the transport's header, then the payload.
struct [[gnu::packed]] VsockmonHdr {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint16_t op;
  uint16_t transport;
  uint16_t transport_header_bytes;
  uint8_t reserved[2];
};
inline constexpr uint16_t kVsockmonOpUnknown = 0;
inline constexpr uint16_t kVsockmonOpConnect = 1;
inline constexpr uint16_t kVsockmonOpDisconnect = 2;
inline constexpr uint16_t kVsockmonOpControl = 3;
inline constexpr uint16_t kVsockmonOpPayload = 4;
inline constexpr uint16_t kVsockmonTransportVirtio = 2;

static_assert(sizeof(VsockmonHdr) == 32);

}  // namespace kernel_abi

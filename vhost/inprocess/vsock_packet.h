// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Packets of a socket device (virtio 1.3, 5.10.6): the header's fields by name, and the checks that
// need no connection. What a guest wrote is copied first and checked then; only a packet that
// passed reaches a connection.
#pragma once

#include <cstdint>
#include <optional>

#include "kernel-abi/virtio.h"

namespace vhost::inprocess {

using VsockHeader = kernel_abi::VirtioVsockHdr;
inline constexpr uint32_t kVsockHeaderBytes = sizeof(VsockHeader);

// The kind of a connection, as in the header. All packets of one have the same.
enum class VsockType : uint16_t {
  kStream = kernel_abi::kVsockTypeStream,
  kSeqpacket = kernel_abi::kVsockTypeSeqpacket,
};
const char* Name(VsockType type);

// Why a packet, or a chain for one, was not used. Counted each by itself.
enum class VsockDrop : uint8_t {
  kShortChain,       // too short for a header; for a receive buffer: or for any data behind it
  kBadLength,        // the header's length is beyond the chain
  kForgedSource,     // not from the guest's own CID
  kNotForHost,       // to another CID than the host's
  kUnknownType,      // neither stream nor seqpacket, or seqpacket without having been acked
  kUnknownOp,        // an operation that virtio 1.3 does not know
  kNoConnection,     // belongs to none
  kWrongState,       // makes no sense in the state of its connection
  kCreditExceeded,   // more data than there was room for: the connection was reset
  kAfterShutdown,    // data for a host peer that receives no more
  kMessageTooLong,   // of a seqpacket connection: longer than the receiver's whole buffer
  kEmptyMessage,     // of a seqpacket connection: a socket's reader would take it for the end
  kConnectionLimit,  // no connection more, no half-open one more, or no buffer more
  kRefused,          // nobody listens on the host for the port
  kCount,
};
const char* Name(VsockDrop drop);  // "forged-source"

// What was wrong with a packet of the guest `guest_cid` whose chain has `payload_bytes` behind the
// header. nullopt: it may go to its connection.
std::optional<VsockDrop> CheckFromGuest(const VsockHeader& header, uint64_t payload_bytes,
                                        uint64_t guest_cid, bool seqpacket_acked);
// Whether the sender of such a packet is answered with an RST: where it can be told who it is.
bool IsAnsweredWithReset(VsockDrop drop, const VsockHeader& header);

// The reset that answers a packet which belongs to no connection.
VsockHeader ResetFor(const VsockHeader& packet);

// The two ports that tell a connection from another; the CIDs are the same for all of a device.
struct VsockPorts {
  uint32_t guest = 0;
  uint32_t host = 0;
  friend bool operator==(const VsockPorts&, const VsockPorts&) = default;
};
inline VsockPorts PortsFromGuest(const VsockHeader& header) {
  return {.guest = header.src_port, .host = header.dst_port};
}

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_packet.h"

namespace vhost::inprocess {

const char* Name(VsockType type) {
  switch (type) {
    case VsockType::kStream:
      return "stream";
    case VsockType::kSeqpacket:
      return "seqpacket";
  }
  return "unknown";
}

const char* Name(VsockDrop drop) {
  switch (drop) {
    case VsockDrop::kShortChain:
      return "short-chain";
    case VsockDrop::kBadLength:
      return "bad-length";
    case VsockDrop::kForgedSource:
      return "forged-source";
    case VsockDrop::kNotForHost:
      return "not-for-host";
    case VsockDrop::kUnknownType:
      return "unknown-type";
    case VsockDrop::kUnknownOp:
      return "unknown-op";
    case VsockDrop::kNoConnection:
      return "no-connection";
    case VsockDrop::kWrongState:
      return "wrong-state";
    case VsockDrop::kCreditExceeded:
      return "credit-exceeded";
    case VsockDrop::kAfterShutdown:
      return "after-shutdown";
    case VsockDrop::kMessageTooLong:
      return "message-too-long";
    case VsockDrop::kEmptyMessage:
      return "empty-message";
    case VsockDrop::kConnectionLimit:
      return "connection-limit";
    case VsockDrop::kRefused:
      return "refused";
    case VsockDrop::kCount:
      break;
  }
  return "unknown";
}

std::optional<VsockDrop> CheckFromGuest(const VsockHeader& header, uint64_t payload_bytes,
                                        uint64_t guest_cid, bool seqpacket_acked) {
  // 5.10.6.4: a device must not pass on what comes from a CID that is not the guest's. Linux drops
  // both kinds without an answer, which might go to a socket that never sent anything.
  if (header.src_cid != guest_cid) return VsockDrop::kForgedSource;
  if (header.dst_cid != kernel_abi::kVsockHostCid) return VsockDrop::kNotForHost;
  if (header.len > payload_bytes) return VsockDrop::kBadLength;
  const bool known_type = header.type == kernel_abi::kVsockTypeStream ||
                          (header.type == kernel_abi::kVsockTypeSeqpacket && seqpacket_acked);
  if (!known_type) return VsockDrop::kUnknownType;
  if (header.op == kernel_abi::kVsockOpInvalid || header.op > kernel_abi::kVsockOpCreditRequest) {
    return VsockDrop::kUnknownOp;
  }
  return std::nullopt;
}

bool IsAnsweredWithReset(VsockDrop drop, const VsockHeader& header) {
  // An RST is never answered: two of them would answer each other for ever.
  if (header.op == kernel_abi::kVsockOpRst) return false;
  switch (drop) {
    case VsockDrop::kUnknownType:  // 5.10.6.4.1: must be
    case VsockDrop::kNoConnection:
    case VsockDrop::kConnectionLimit:
    case VsockDrop::kRefused:
      return true;
    default:
      return false;
  }
}

VsockHeader ResetFor(const VsockHeader& packet) {
  VsockHeader reset{};
  reset.src_cid = packet.dst_cid;
  reset.dst_cid = packet.src_cid;
  reset.src_port = packet.dst_port;
  reset.dst_port = packet.src_port;
  reset.type = packet.type;
  reset.op = kernel_abi::kVsockOpRst;
  return reset;
}

}  // namespace vhost::inprocess

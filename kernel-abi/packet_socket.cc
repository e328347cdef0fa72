// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/packet_socket.h"

#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/vsockmon.h>

namespace kernel_abi {

static_assert(kPacketStatistics == PACKET_STATISTICS && kPacketAuxdata == PACKET_AUXDATA);
static_assert(sizeof(PacketStatistics) == sizeof(tpacket_stats));
static_assert(offsetof(PacketStatistics, drops) == offsetof(tpacket_stats, tp_drops));
static_assert(sizeof(PacketAuxdata) == sizeof(tpacket_auxdata));
static_assert(offsetof(PacketAuxdata, vlan_tci) == offsetof(tpacket_auxdata, tp_vlan_tci));
static_assert(offsetof(PacketAuxdata, vlan_tpid) == offsetof(tpacket_auxdata, tp_vlan_tpid));
static_assert(kPacketStatusVlanValid == TP_STATUS_VLAN_VALID);
static_assert(kPacketStatusVlanTpidValid == TP_STATUS_VLAN_TPID_VALID);
static_assert(kPacketOutgoing == PACKET_OUTGOING);

static_assert(sizeof(BpfInstruction) == sizeof(sock_filter));
static_assert(offsetof(BpfInstruction, k) == offsetof(sock_filter, k));
static_assert(sizeof(BpfProgram) == sizeof(sock_fprog));
static_assert(offsetof(BpfProgram, instructions) == offsetof(sock_fprog, filter));
static_assert(kBpfLoadWord == (BPF_LD | BPF_W | BPF_ABS));
static_assert(kBpfJumpIfEqual == (BPF_JMP | BPF_JEQ | BPF_K));
static_assert(kBpfReturn == (BPF_RET | BPF_K));
static_assert(kBpfPacketType == static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_PKTTYPE));
static_assert(kBpfQueueMapping == static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_QUEUE));

static_assert(sizeof(VsockmonHdr) == sizeof(af_vsockmon_hdr));
static_assert(offsetof(VsockmonHdr, op) == offsetof(af_vsockmon_hdr, op));
static_assert(offsetof(VsockmonHdr, transport_header_bytes) == offsetof(af_vsockmon_hdr, len));
static_assert(kVsockmonOpConnect == AF_VSOCK_OP_CONNECT &&
              kVsockmonOpDisconnect == AF_VSOCK_OP_DISCONNECT &&
              kVsockmonOpControl == AF_VSOCK_OP_CONTROL &&
              kVsockmonOpPayload == AF_VSOCK_OP_PAYLOAD &&
              kVsockmonTransportVirtio == AF_VSOCK_TRANSPORT_VIRTIO);

}  // namespace kernel_abi

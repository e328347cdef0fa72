// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The header in front of each frame (virtio 1.3, 5.1.6), as a driver wrote it: copied once,
// checked, and what was checked is what the TAP is given.
#pragma once

#include <cstddef>

#include "kernel-abi/virtio.h"
#include "vhost/inprocess/net_packet.h"

namespace vhost::inprocess {

// The largest frame that a TAP gives or takes: an IP packet of 64 KiB behind Ethernet with a tag,
// and room to spare.
inline constexpr size_t kMaxFrameBytes = 65536 + 256;

// Whether `header` makes sense of a frame of `frame_bytes`. What a driver may set and nobody needs
// is cleared. The rules are the kernel's own (drivers/net/tun.c, linux/virtio_net.h); what they
// leave open, the kernel refuses when the frame is written.
inline bool CheckNetHeader(kernel_abi::VirtioNetHdr& header, size_t frame_bytes) {
  using namespace kernel_abi;  // NOLINT: names of the field
  header.flags &= kNetHdrFNeedsCsum;
  header.num_buffers = 0;
  if ((header.flags & kNetHdrFNeedsCsum) != 0) {
    const size_t end = size_t{header.csum_start} + header.csum_offset + 2;
    if (header.csum_start < kEthernetBytes || end > frame_bytes) return false;
  } else {
    header.csum_start = 0;
    header.csum_offset = 0;
  }
  switch (header.gso_type & ~kNetHdrGsoEcn) {
    case kNetHdrGsoNone:
      // With ECN alone it is no type at all.
      if (header.gso_type != kNetHdrGsoNone) return false;
      header.gso_size = 0;
      header.hdr_len = 0;
      return true;
    case kNetHdrGsoTcpV4:
    case kNetHdrGsoTcpV6:
    case kNetHdrGsoUdp:
    case kNetHdrGsoUdpL4:
      return header.gso_size != 0 && header.hdr_len <= frame_bytes;
    default:
      return false;
  }
}

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/flow_merge.h"

#include <algorithm>
#include <cstring>

#include "vhost/inprocess/internet_checksum.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::kNetHdrFNeedsCsum;

// IP's length field, and so the largest merged packet without its Ethernet header.
constexpr size_t kMaxIpBytes = 65535;

uint8_t Byte(const std::byte* at) { return std::to_integer<uint8_t>(*at); }
bool Equal(const std::byte* a, const std::byte* b, size_t from, size_t to) {
  return std::memcmp(a + from, b + from, to - from) == 0;
}

// The first `size` bytes of what lies in pieces.
void CopyHead(std::span<const iovec> pieces, size_t size, std::byte* to) {
  for (const iovec& piece : pieces) {
    const size_t part = std::min(size, piece.iov_len);
    std::memcpy(to, piece.iov_base, part);
    to += part;
    size -= part;
    if (size == 0) return;
  }
}

// The sum of all bytes behind the first `skip`.
uint64_t SumFrom(std::span<const iovec> pieces, size_t skip) {
  uint64_t sum = 0;
  bool odd = false;
  for (const iovec& piece : pieces) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    const size_t bytes = piece.iov_len - skip;
    const uint64_t part = SumOf(static_cast<const std::byte*>(piece.iov_base) + skip, bytes);
    sum = AddSums(sum, odd ? SwapSum(part) : part);
    if (bytes % 2 != 0) odd = !odd;
    skip = 0;
  }
  return sum;
}

// Whether the cut frame's checksum will be this frame's. `head` is its headers as copied.
bool ChecksumIsExact(const FlowMerge::Frame& frame, const std::byte* head,
                     const PacketShape& shape) {
  const size_t l4_bytes = frame.bytes - shape.l4;
  const uint64_t pseudo = PseudoHeaderSum(head, shape, l4_bytes);
  uint16_t field;
  std::memcpy(&field, head + shape.l4 + shape.checksum_offset(), sizeof(field));
  if ((frame.header.flags & kNetHdrFNeedsCsum) != 0) {
    return frame.header.csum_start == shape.l4 &&
           frame.header.csum_offset == shape.checksum_offset() && field == FoldSum(pseudo);
  }
  // Of the two ways to write zero a new sum comes to one only; UDP's other means "none".
  if (field == (shape.is_tcp ? 0xffff : 0)) return false;
  const uint64_t headers = SumOf(head + shape.l4, shape.payload - shape.l4);
  const uint64_t payload = SumFrom(frame.pieces, shape.payload);
  return FoldSum(AddSums(AddSums(pseudo, headers), payload)) == 0xffff;
}

bool SameFlow(const std::byte* a, const PacketShape& of_a, const std::byte* b,
              const PacketShape& of_b) {
  if (of_a.is_ipv6 != of_b.is_ipv6 || of_a.is_tcp != of_b.is_tcp) return false;
  const size_t addresses = of_a.is_ipv6 ? kIpv6Source : kIpv4Source;
  const size_t size = of_a.is_ipv6 ? 32 : 8;
  return std::memcmp(a + of_a.l4, b + of_b.l4, 4) == 0 &&  // the ports
         std::memcmp(a + of_a.l3 + addresses, b + of_b.l3 + addresses, size) == 0;
}

// Whether all that must be the same in the headers of merged frames is. The flows are the same.
bool SameHeaders(const std::byte* a, const std::byte* b, const PacketShape& shape) {
  if (!Equal(a, b, 0, shape.l3)) return false;
  const size_t ip = shape.l3;
  if (shape.is_ipv6) {
    if (!Equal(a, b, ip, ip + kIpv6Length)) return false;
    if (!Equal(a, b, ip + kIpv6NextHeader, ip + kIpv6Source)) return false;
  } else {
    if (!Equal(a, b, ip, ip + kIpv4Length)) return false;
    if (!Equal(a, b, ip + kIpv4Fragment, ip + kIpv4Checksum)) return false;
  }
  if (!shape.is_tcp) return true;
  const size_t tcp = shape.l4;
  // Acknowledgement, header length with the reserved bits, window, urgent pointer and options.
  return Equal(a, b, tcp + 8, tcp + kTcpFlags) &&
         Equal(a, b, tcp + kTcpFlags + 1, tcp + kTcpChecksum) &&
         Equal(a, b, tcp + kTcpUrgent, shape.payload);
}

}  // namespace

void FlowMerge::Begin() {
  writes_ = 0;
  used_ = 0;
  open_count_ = 0;
}

FlowMerge::Added FlowMerge::Add(const Frame& frame) {
  Flow& next = flows_[used_];
  flow_of_write_[writes_] = nullptr;
  const size_t copied = std::min(frame.bytes, next.head.size());
  CopyHead(frame.pieces, copied, next.head.data());
  const std::byte* head = next.head.data();
  const std::optional<PacketShape> shape =
      ParsePacket(std::span(next.head).first(copied), frame.bytes);
  if (!shape.has_value()) {
    // Whatever it is, nothing that comes later overtakes it.
    open_count_ = 0;
  } else {
    const bool may_begin = MayBegin(frame, head, *shape);
    if (Flow* flow = FindOpen(head, *shape); flow != nullptr) {
      if (may_begin && Join(*flow, frame, head, *shape)) {
        const bool is_last = frame.bytes - shape->payload < flow->segment_bytes ||
                             (shape->is_tcp && (Byte(head + shape->l4 + kTcpFlags) & kTcpPsh) != 0);
        const Added added{.write = flow->write, .merged = true};
        if (is_last) Close(*flow);
        return added;
      }
      Close(*flow);
    }
    if (may_begin) Open(next, frame, *shape);
  }
  return {.write = static_cast<uint16_t>(writes_++), .merged = false};
}

bool FlowMerge::MayBegin(const Frame& frame, const std::byte* head,
                         const PacketShape& shape) const {
  const bool wanted = shape.is_tcp ? (shape.is_ipv6 ? kinds_.tcp6 : kinds_.tcp4)
                                   : (shape.is_ipv6 ? kinds_.udp6 : kinds_.udp4);
  if (!wanted || frame.header.gso_type != kernel_abi::kNetHdrGsoNone) return false;
  if (frame.bytes == shape.payload) return false;  // nothing to put together
  if (!shape.is_tcp) return true;
  const uint8_t flags = Byte(head + shape.l4 + kTcpFlags);
  return (flags & ~kTcpPsh) == kTcpAck && Load16(head + shape.l4 + kTcpUrgent) == 0;
}

FlowMerge::Flow* FlowMerge::FindOpen(const std::byte* head, const PacketShape& shape) {
  for (size_t i = 0; i < open_count_; ++i) {
    if (SameFlow(open_[i]->head.data(), open_[i]->shape, head, shape)) return open_[i];
  }
  return nullptr;
}

bool FlowMerge::Join(Flow& flow, const Frame& frame, const std::byte* head,
                     const PacketShape& shape) {
  const PacketShape& mine = flow.shape;
  if (mine.l3 != shape.l3 || mine.payload != shape.payload) return false;
  if (!SameHeaders(flow.head.data(), head, mine)) return false;
  const std::byte* ip = head + shape.l3;
  const std::byte* my_ip = flow.head.data() + shape.l3;
  if (!shape.is_ipv6 &&
      Load16(ip + kIpv4Id) != static_cast<uint16_t>(Load16(my_ip + kIpv4Id) + flow.segments)) {
    return false;
  }
  if (shape.is_tcp && Load32(head + shape.l4 + kTcpSequence) !=
                          Load32(flow.head.data() + shape.l4 + kTcpSequence) + flow.payload_bytes) {
    return false;
  }
  const size_t payload = frame.bytes - shape.payload;
  if (payload > flow.segment_bytes || flow.segments == kMaxSegments) return false;
  if (frame.bytes - shape.l3 + flow.payload_bytes > kMaxIpBytes) return false;
  if (flow.pieces + frame.pieces.size() > kMaxPieces) return false;
  // Only now, as these may go through all the bytes. The first frame's head is as it was copied.
  if (flow.segments == 1 && !ChecksumIsExact(flow.first, flow.head.data(), mine)) return false;
  if (!ChecksumIsExact(frame, head, shape)) return false;
  ++flow.segments;
  flow.payload_bytes += static_cast<uint32_t>(payload);
  flow.pieces += static_cast<uint32_t>(frame.pieces.size());
  if (shape.is_tcp) flow.head[shape.l4 + kTcpFlags] = head[shape.l4 + kTcpFlags];
  return true;
}

void FlowMerge::Open(Flow& flow, const Frame& frame, const PacketShape& shape) {
  // With PSH, or with so many pieces, nothing may follow.
  if (shape.is_tcp && (Byte(flow.head.data() + shape.l4 + kTcpFlags) & kTcpPsh) != 0) return;
  if (frame.pieces.size() > kMaxPieces) return;
  if (open_count_ == kMaxFlows) Close(*open_[0]);
  const size_t payload = frame.bytes - shape.payload;
  flow.write = static_cast<uint16_t>(writes_);
  flow.shape = shape;
  flow.segment_bytes = static_cast<uint16_t>(payload);
  flow.segments = 1;
  flow.pieces = static_cast<uint32_t>(frame.pieces.size());
  flow.payload_bytes = static_cast<uint32_t>(payload);
  flow.first = frame;
  open_[open_count_++] = &flow;
  flow_of_write_[writes_] = &flow;
  ++used_;
}

void FlowMerge::Close(const Flow& flow) {
  auto* const end = open_.begin() + open_count_;
  auto* const gone = std::remove(open_.begin(), end, &flow);
  open_count_ = static_cast<size_t>(gone - open_.begin());
}

FlowMerge::Headers FlowMerge::HeadersOf(size_t write) {
  Flow& flow = *flow_of_write_[write];
  const PacketShape& shape = flow.shape;
  const size_t l4_bytes = shape.payload - shape.l4 + size_t{flow.payload_bytes};
  SetLengths(flow.head.data(), shape, shape.l4 - size_t{shape.l3}, l4_bytes);
  const uint16_t pseudo = FoldSum(PseudoHeaderSum(flow.head.data(), shape, l4_bytes));
  std::memcpy(flow.head.data() + shape.l4 + shape.checksum_offset(), &pseudo, sizeof(pseudo));
  const uint8_t type = !shape.is_tcp   ? kernel_abi::kNetHdrGsoUdpL4
                       : shape.is_ipv6 ? kernel_abi::kNetHdrGsoTcpV6
                                       : kernel_abi::kNetHdrGsoTcpV4;
  return {.header = {.flags = kNetHdrFNeedsCsum,
                     .gso_type = type,
                     .hdr_len = shape.payload,
                     .gso_size = flow.segment_bytes,
                     .csum_start = shape.l4,
                     .csum_offset = static_cast<uint16_t>(shape.checksum_offset()),
                     .num_buffers = 0},
          .bytes = std::span<const std::byte>(flow.head).first(shape.payload)};
}

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/segment_cut.h"

#include <algorithm>
#include <cstring>

#include "vhost/inprocess/internet_checksum.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::VirtioNetHdr;

uint8_t Byte(const std::byte* at) { return std::to_integer<uint8_t>(*at); }

void Store(std::byte* at, uint16_t sum) { std::memcpy(at, &sum, sizeof(sum)); }

// UDP writes a sum of zero as all ones: zero means "none".
uint16_t AsChecksum(uint64_t sum, bool is_tcp) {
  const auto value = static_cast<uint16_t>(~FoldSum(sum));
  return value == 0 && !is_tcp ? 0xffff : value;
}

// Where the header behind IPv4's options or IPv6's extensions begins, if it is `protocol`'s.
std::optional<size_t> FindL4(std::span<const std::byte> frame, size_t l3, bool is_ipv6,
                             uint8_t protocol) {
  const std::byte* ip = frame.data() + l3;
  if (!is_ipv6) {
    if (frame.size() < l3 + kIpv4Bytes || Byte(ip) >> 4 != 4) return std::nullopt;
    const size_t bytes = size_t{Byte(ip)} % 16 * 4;
    if (bytes < kIpv4Bytes || Byte(ip + kIpv4Protocol) != protocol) return std::nullopt;
    return l3 + bytes;
  }
  if (frame.size() < l3 + kIpv6Bytes || Byte(ip) >> 4 != 6) return std::nullopt;
  uint8_t next = Byte(ip + kIpv6NextHeader);
  size_t at = l3 + kIpv6Bytes;
  // Hop-by-hop, routing and destination options; each is 8 bytes at least, so this ends.
  while (next == 0 || next == 43 || next == 60) {
    if (at + 8 > frame.size() || at > SegmentCut::kMaxHeaderBytes) return std::nullopt;
    next = Byte(frame.data() + at);
    at += (size_t{Byte(frame.data() + at + 1)} + 1) * 8;
  }
  if (next != protocol) return std::nullopt;
  return at;
}

}  // namespace

std::optional<SegmentCut> SegmentCut::Parse(const VirtioNetHdr& header,
                                            std::span<const std::byte> frame,
                                            bool finish_checksums) {
  const uint8_t type = header.gso_type & ~kernel_abi::kNetHdrGsoEcn;
  const bool is_tcp = type == kernel_abi::kNetHdrGsoTcpV4 || type == kernel_abi::kNetHdrGsoTcpV6;
  if (!is_tcp && type != kernel_abi::kNetHdrGsoUdpL4) return std::nullopt;
  if (header.gso_size == 0 || frame.size() < kEthernetBytes + kVlanTagBytes) return std::nullopt;

  size_t l3 = kEthernetBytes;
  uint16_t ether_type = Load16(frame.data() + 12);
  if (ether_type == kEtherTypeVlan) {
    ether_type = Load16(frame.data() + 16);
    l3 += kVlanTagBytes;
  }
  const bool is_ipv6 = ether_type == kEtherTypeIpv6;
  if (!is_ipv6 && ether_type != kEtherTypeIpv4) return std::nullopt;
  if (is_tcp && is_ipv6 != (type == kernel_abi::kNetHdrGsoTcpV6)) return std::nullopt;
  const std::optional<size_t> l4 = FindL4(frame, l3, is_ipv6, is_tcp ? kProtocolTcp : kProtocolUdp);
  if (!l4.has_value() || *l4 + kTcpBytes > kMaxHeaderBytes) return std::nullopt;

  size_t payload = *l4 + kUdpBytes;
  if (is_tcp) {
    if (frame.size() < *l4 + kTcpBytes) return std::nullopt;
    const size_t bytes = size_t{Byte(frame.data() + *l4 + kTcpDataOffset)} >> 4 << 2;
    if (bytes < kTcpBytes) return std::nullopt;
    payload = *l4 + bytes;
  }
  // Offsets are kept in a byte each.
  if (payload >= kMaxHeaderBytes || payload >= frame.size()) return std::nullopt;

  SegmentCut cut;
  cut.frame_ = frame;
  cut.shape_ = {.l3 = static_cast<uint8_t>(l3),
                .l4 = static_cast<uint8_t>(*l4),
                .payload = static_cast<uint8_t>(payload),
                .is_ipv6 = is_ipv6,
                .is_tcp = is_tcp};
  cut.segment_bytes_ = header.gso_size;
  cut.count_ = (frame.size() - payload + header.gso_size - 1) / header.gso_size;
  cut.finish_checksums_ = finish_checksums;
  return cut;
}

void SegmentCut::Make(size_t index, Segment& segment) const {
  const size_t begin = index * segment_bytes_;
  const std::span<const std::byte> all = frame_.subspan(shape_.payload);
  segment.payload = all.subspan(begin, std::min(segment_bytes_, all.size() - begin));
  segment.head_bytes = shape_.payload;
  std::byte* head = segment.head.data();
  std::memcpy(head, frame_.data(), shape_.payload);

  if (!shape_.is_ipv6) {
    std::byte* id = head + shape_.l3 + kIpv4Id;
    Store16(id, static_cast<uint16_t>(Load16(id) + index));
  }
  std::byte* l4 = head + shape_.l4;
  if (shape_.is_tcp) {
    Store32(l4 + kTcpSequence, Load32(l4 + kTcpSequence) + static_cast<uint32_t>(begin));
    // As tcp_gso_segment() of the kernel: the end is of the last, CWR of the first.
    uint8_t flags = Byte(l4 + kTcpFlags);
    if (index + 1 != count_) flags &= static_cast<uint8_t>(~(kTcpFin | kTcpPsh));
    if (index != 0) flags &= static_cast<uint8_t>(~kTcpCwr);
    l4[kTcpFlags] = std::byte{flags};
  }
  const size_t l4_bytes = shape_.payload - size_t{shape_.l4} + segment.payload.size();
  SetLengths(head, shape_, shape_.l4 - size_t{shape_.l3}, l4_bytes);

  segment.header = {};
  segment.header.gso_type = kernel_abi::kNetHdrGsoNone;
  std::byte* checksum = l4 + shape_.checksum_offset();
  const uint64_t pseudo = PseudoHeaderSum(head, shape_, l4_bytes);
  if (finish_checksums_) {
    Store(checksum, 0);
    const size_t l4_head = shape_.payload - size_t{shape_.l4};  // even
    const uint64_t sum =
        AddSums(SumOf(l4, l4_head), SumOf(segment.payload.data(), segment.payload.size()));
    Store(checksum, AsChecksum(AddSums(pseudo, sum), shape_.is_tcp));
  } else {
    Store(checksum, FoldSum(pseudo));
    segment.header.flags = kernel_abi::kNetHdrFNeedsCsum;
    segment.header.csum_start = shape_.l4;
    segment.header.csum_offset = static_cast<uint16_t>(shape_.checksum_offset());
  }
}

bool FinishChecksum(const VirtioNetHdr& header, std::span<std::byte> frame) {
  const size_t start = header.csum_start;
  const size_t field = start + header.csum_offset;
  if (field + 2 > frame.size()) return false;
  // The field holds the pseudo header's sum, and is summed with the rest. Nothing tells UDP from
  // the others but where its checksum is; no other protocol minds all ones for zero.
  const uint64_t sum = SumOf(frame.data() + start, frame.size() - start);
  Store(frame.data() + field, AsChecksum(sum, header.csum_offset != kUdpChecksum));
  return true;
}

}  // namespace vhost::inprocess

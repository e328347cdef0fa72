// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/capture/pcapng.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace vhost::ctl {
namespace {

// A section is written in the writer's byte order, which its header tells.
static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kSectionHeader = 0x0a0d0d0a;
constexpr uint32_t kInterfaceDescription = 1;
constexpr uint32_t kInterfaceStatistics = 5;
constexpr uint32_t kEnhancedPacket = 6;
constexpr uint32_t kByteOrderMagic = 0x1a2b3c4d;
constexpr uint64_t kLengthUnknown = std::numeric_limits<uint64_t>::max();

// Options, by block.
constexpr uint16_t kEnd = 0;
constexpr uint16_t kComment = 1;
constexpr uint16_t kSectionOs = 3;
constexpr uint16_t kSectionApplication = 4;
constexpr uint16_t kInterfaceName = 2;
constexpr uint16_t kInterfaceText = 3;
constexpr uint16_t kInterfaceTimeUnit = 9;
constexpr uint16_t kPacketFlags = 2;
constexpr uint16_t kPacketDropCount = 4;
constexpr uint16_t kPacketQueue = 6;
constexpr uint16_t kCountsStart = 2;
constexpr uint16_t kCountsEnd = 3;
constexpr uint16_t kCountsReceived = 4;
constexpr uint16_t kCountsDropped = 5;

constexpr char kNanoseconds = 9;  // 10^-9 s
constexpr uint32_t kInbound = 1;
constexpr uint32_t kOutbound = 2;

template <typename Number>
std::string Raw(Number value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Times come with their high half first.
std::string RawTime(int64_t time_ns) {
  const auto time = static_cast<uint64_t>(time_ns);
  return Raw(static_cast<uint32_t>(time >> 32)) + Raw(static_cast<uint32_t>(time));
}

void Pad(std::string* text) { text->resize((text->size() + 3) / 4 * 4, '\0'); }

class Block {
 public:
  explicit Block(uint32_t type) : type_(type) {}

  template <typename Number>
  Block& Put(Number value) {
    body_ += Raw(value);
    return *this;
  }
  Block& PutBytes(absl::string_view bytes) {
    body_.append(bytes.data(), bytes.size());
    Pad(&body_);
    return *this;
  }
  Block& Option(uint16_t code, absl::string_view value) {
    value = value.substr(0, std::numeric_limits<uint16_t>::max());
    has_options_ = true;
    return Put(code).Put(static_cast<uint16_t>(value.size())).PutBytes(value);
  }
  Block& Text(uint16_t code, absl::string_view value) {
    return value.empty() ? *this : Option(code, value);
  }
  std::string Done() {
    if (has_options_) Put(kEnd).Put(uint16_t{0});
    const auto length = static_cast<uint32_t>(body_.size() + 3 * sizeof(uint32_t));
    return Raw(type_) + Raw(length) + body_ + Raw(length);
  }

 private:
  const uint32_t type_;
  std::string body_;
  bool has_options_ = false;
};

}  // namespace

std::string PcapngSection(absl::string_view os, absl::string_view application) {
  return Block(kSectionHeader)
      .Put(kByteOrderMagic)
      .Put(uint16_t{1})  // version 1.0
      .Put(uint16_t{0})
      .Put(kLengthUnknown)
      .Text(kSectionOs, os)
      .Text(kSectionApplication, application)
      .Done();
}

std::string PcapngInterfaceBlock(const PcapngInterface& interface) {
  return Block(kInterfaceDescription)
      .Put(interface.link_type)
      .Put(uint16_t{0})
      .Put(interface.snaplen)
      .Text(kInterfaceName, interface.name)
      .Text(kInterfaceText, interface.description)
      .Option(kInterfaceTimeUnit, absl::string_view(&kNanoseconds, 1))
      .Done();
}

std::string PcapngPacketBlock(const PcapngPacket& packet) {
  Block block(kEnhancedPacket);
  block.Put(packet.interface)
      .PutBytes(RawTime(packet.time_ns))
      .Put(static_cast<uint32_t>(packet.bytes.size()))
      .Put(packet.length)
      .PutBytes(packet.bytes)
      .Text(kComment, packet.comment)
      .Option(kPacketFlags, Raw(packet.to_guest ? kOutbound : kInbound));
  if (packet.dropped.has_value()) block.Option(kPacketDropCount, Raw(*packet.dropped));
  if (packet.queue.has_value()) block.Option(kPacketQueue, Raw(*packet.queue));
  return block.Done();
}

std::string PcapngStatisticsBlock(const PcapngCounts& counts) {
  return Block(kInterfaceStatistics)
      .Put(counts.interface)
      .PutBytes(RawTime(counts.end_ns))
      .Option(kCountsStart, RawTime(counts.start_ns))
      .Option(kCountsEnd, RawTime(counts.end_ns))
      .Option(kCountsReceived, Raw(counts.received))
      .Option(kCountsDropped, Raw(counts.dropped))
      .Done();
}

}  // namespace vhost::ctl

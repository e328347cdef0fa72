// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Blocks of a pcapng file (draft-ietf-opsawg-pcapng), each as the bytes that go to the file: first
// the section's header, then a description of each interface, then packets in any order, at the end
// a block of counts for each interface. Times are in nanoseconds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace vhost::ctl {

inline constexpr uint16_t kLinkTypeEthernet = 1;
inline constexpr uint16_t kLinkTypeVsock = 271;  // frames of vsockmon

// What made the file: "Linux 6.12.1", "vhostctl 0.1.0".
std::string PcapngSection(absl::string_view os, absl::string_view application);

struct PcapngInterface {
  std::string name;
  std::string description;
  uint16_t link_type = kLinkTypeEthernet;
  uint32_t snaplen = 0;  // 0: no limit
};
// The first in a file is interface 0, and so on.
std::string PcapngInterfaceBlock(const PcapngInterface& interface);

struct PcapngPacket {
  uint32_t interface = 0;
  int64_t time_ns = 0;  // since the Epoch
  uint32_t length = 0;  // of which `bytes` are the first
  std::string bytes;
  bool to_guest = false;            // leaves the host on that interface
  std::optional<uint32_t> queue;    // virtqueue
  std::optional<uint64_t> dropped;  // between the one before and this one, if that is known
  std::string comment;
};
std::string PcapngPacketBlock(const PcapngPacket& packet);

struct PcapngCounts {
  uint32_t interface = 0;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  uint64_t received = 0;
  uint64_t dropped = 0;
};
std::string PcapngStatisticsBlock(const PcapngCounts& counts);

}  // namespace vhost::ctl

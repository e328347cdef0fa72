// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vhost/report.h"

namespace vhost::inprocess {

// Why a frame did not get through.
enum class NetDrop : uint8_t {
  kShortFrame,    // shorter than its headers
  kLongFrame,     // longer than any frame can be
  kBadHeader,     // a virtio header that makes no sense of the frame
  kRefused,       // the TAP would not have it
  kLinkDown,      // the TAP's interface is down
  kSmallBuffers,  // the driver's buffers, all of them, are too small for it
  kBadGso,        // a frame to be cut that is not as its header says
  kStopped,       // it was between the TAP and the ring when the backend was stopped
};
inline constexpr size_t kNetDrops = 8;
inline const char* Name(NetDrop drop) {
  static constexpr const char* kNames[kNetDrops] = {"short-frame", "long-frame", "bad-header",
                                                    "refused",     "link-down",  "small-buffers",
                                                    "bad-gso",     "stopped"};
  return kNames[static_cast<size_t>(drop)];
}

// What one virtqueue of a network device has seen, since its backend was made.
struct NetCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;   // of frames, without virtio's header
  uint64_t merged = 0;  // frames that went out as part of the one before them
  uint64_t cut = 0;     // frames that came as part of a larger one
  uint64_t kicks = 0;   // times that the kick eventfd woke us; several kicks may be one
  uint64_t calls = 0;
  uint64_t suppressed_calls = 0;  // buffers were returned, and the driver did not want to know
  std::array<uint64_t, kNetDrops> drops{};

  void Drop(NetDrop why) { ++drops[static_cast<size_t>(why)]; }
  uint64_t dropped(NetDrop why) const { return drops[static_cast<size_t>(why)]; }

  DataPathReport Report() const {
    DataPathReport report{.packets = packets,
                          .bytes = bytes,
                          .merged = merged,
                          .cut = cut,
                          .kicks = kicks,
                          .calls = calls,
                          .suppressed_calls = suppressed_calls};
    for (size_t i = 0; i < kNetDrops; ++i) {
      if (drops[i] != 0) report.drops.push_back({Name(static_cast<NetDrop>(i)), drops[i]});
    }
    return report;
  }
};

}  // namespace vhost::inprocess

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The commands of a network device's control queue (virtio 1.3, 5.1.6.5), apart from the queue:
// bytes in, one byte of answer out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "vhost/device/receive_filter.h"
#include "vhost/features.h"

namespace vhost {

// What commands act on, besides the receive filter.
class NetControlTarget {
 public:
  virtual ~NetControlTarget() = default;
  virtual int max_queue_pairs() const = 0;
  virtual absl::Status SetQueuePairs(int pairs) = 0;  // 1 to max_queue_pairs()
  // Of the acked GUEST_* offloads, those that are on from now on.
  virtual absl::Status SetGuestOffloads(VirtioFeatures offloads) = 0;
  // The filter, with the MAC address in it, is not as it was.
  virtual void ReceiveFilterChanged() = 0;
  virtual void AnnounceAcked() = 0;
};

// A command longer than this is refused: the longest that is of use (tables of MAC addresses) needs
// less.
inline constexpr size_t kMaxNetCommandBytes = 16384;

// Carries out `command` (class, command, data) from a driver that acked `acked`. Returns
// VIRTIO_NET_OK or VIRTIO_NET_ERR. What was refused has changed nothing.
uint8_t HandleNetCommand(std::span<const std::byte> command, VirtioFeatures acked,
                         ReceiveFilter& filter, NetControlTarget& target);

}  // namespace vhost

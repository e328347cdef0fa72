// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <bitset>
#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "vhost/device/mac_address.h"
#include "vhost/report.h"

namespace vhost {

// Which frames a driver wants to receive (virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3). Filtering is best
// effort: a device may deliver more than this, never less.
struct ReceiveFilter {
  // As many addresses are kept of each table. Beyond, all of that kind are let through.
  static constexpr size_t kMaxTable = 64;
  static constexpr size_t kVlans = 4096;

  // Until the driver says otherwise it gets everything.
  bool promiscuous = true;
  bool all_multicast = false;
  bool all_unicast = false;
  bool no_multicast = false;
  bool no_unicast = false;
  bool no_broadcast = false;
  MacAddress mac{};  // the device's own, as the driver may have set it
  std::vector<MacAddress> unicast;
  std::vector<MacAddress> multicast;
  bool unicast_overflow = false;
  bool multicast_overflow = false;
  std::bitset<kVlans> vlans;

  friend bool operator==(const ReceiveFilter&, const ReceiveFilter&) = default;
};

ReceiveFilterReport Describe(const ReceiveFilter& filter);
// The reverse, but for the device's own address. INVALID_ARGUMENT: an address or a VLAN that is
// none, or more addresses than are kept.
absl::StatusOr<ReceiveFilter> ReceiveFilterFrom(const ReceiveFilterReport& report);

}  // namespace vhost

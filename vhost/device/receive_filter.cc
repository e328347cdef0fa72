// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/receive_filter.h"

namespace vhost {

ReceiveFilterReport Describe(const ReceiveFilter& filter) {
  ReceiveFilterReport report{.promiscuous = filter.promiscuous,
                             .all_multicast = filter.all_multicast,
                             .all_unicast = filter.all_unicast,
                             .no_multicast = filter.no_multicast,
                             .no_unicast = filter.no_unicast,
                             .no_broadcast = filter.no_broadcast,
                             .unicast_overflow = filter.unicast_overflow,
                             .multicast_overflow = filter.multicast_overflow};
  for (const MacAddress& mac : filter.unicast) report.unicast.push_back(Describe(mac));
  for (const MacAddress& mac : filter.multicast) report.multicast.push_back(Describe(mac));
  for (size_t vlan = 0; vlan < filter.vlans.size(); ++vlan) {
    if (filter.vlans[vlan]) report.vlans.push_back(static_cast<uint16_t>(vlan));
  }
  return report;
}

}  // namespace vhost

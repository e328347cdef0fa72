// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/receive_filter.h"

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

absl::Status ParseTable(const std::vector<std::string>& texts, std::vector<MacAddress>* table) {
  if (texts.size() > ReceiveFilter::kMaxTable) {
    return absl::InvalidArgumentError(absl::StrCat("receive filter: ", texts.size(),
                                                   " addresses of a kind, at most ",
                                                   ReceiveFilter::kMaxTable, " are kept"));
  }
  for (const std::string& text : texts) {
    const absl::StatusOr<MacAddress> mac = ParseMacAddress(text);
    if (!mac.ok()) return mac.status();
    table->push_back(*mac);
  }
  return absl::OkStatus();
}

}  // namespace

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

absl::StatusOr<ReceiveFilter> ReceiveFilterFrom(const ReceiveFilterReport& report) {
  ReceiveFilter filter{.promiscuous = report.promiscuous,
                       .all_multicast = report.all_multicast,
                       .all_unicast = report.all_unicast,
                       .no_multicast = report.no_multicast,
                       .no_unicast = report.no_unicast,
                       .no_broadcast = report.no_broadcast,
                       .unicast_overflow = report.unicast_overflow,
                       .multicast_overflow = report.multicast_overflow};
  absl::Status status = ParseTable(report.unicast, &filter.unicast);
  if (status.ok()) status = ParseTable(report.multicast, &filter.multicast);
  if (!status.ok()) return status;
  for (const uint16_t vlan : report.vlans) {
    if (vlan >= ReceiveFilter::kVlans) {
      return absl::InvalidArgumentError(absl::StrCat("receive filter: VLAN ", vlan));
    }
    filter.vlans.set(vlan);
  }
  return filter;
}

}  // namespace vhost

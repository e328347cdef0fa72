// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/net_control.h"

#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "vhost/device/net_features.h"

namespace vhost {
namespace {

using enum VirtioFeature;

// Takes a command's data apart from the front.
class Data {
 public:
  explicit Data(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  std::optional<T> Take() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes_.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  // All that is left, if it is exactly one T.
  template <typename T>
  std::optional<T> TakeLast() {
    std::optional<T> value = Take<T>();
    return empty() ? value : std::nullopt;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

struct MacTable {
  std::vector<MacAddress> addresses;
  bool overflow = false;
};

// le32 count, then as many addresses.
std::optional<MacTable> TakeMacTable(Data& data) {
  const std::optional<uint32_t> count = data.Take<uint32_t>();
  if (!count.has_value()) return std::nullopt;
  MacTable table;
  for (uint32_t i = 0; i < *count; ++i) {
    const std::optional<MacAddress> mac = data.Take<MacAddress>();
    if (!mac.has_value()) return std::nullopt;  // Ends the loop, whatever the count.
    if (table.addresses.size() < ReceiveFilter::kMaxTable) {
      table.addresses.push_back(*mac);
    } else {
      table.overflow = true;
    }
  }
  if (table.overflow) table.addresses.clear();
  return table;
}

bool SetReceiveMode(uint8_t command, Data data, VirtioFeatures acked, ReceiveFilter& filter) {
  struct Mode {
    uint8_t command;
    bool ReceiveFilter::*flag;
    VirtioFeature needs;
  };
  constexpr Mode kModes[] = {
      {kernel_abi::kNetCtrlRxPromisc, &ReceiveFilter::promiscuous, kNetCtrlRx},
      {kernel_abi::kNetCtrlRxAllMulti, &ReceiveFilter::all_multicast, kNetCtrlRx},
      {kernel_abi::kNetCtrlRxAllUni, &ReceiveFilter::all_unicast, kNetCtrlRxExtra},
      {kernel_abi::kNetCtrlRxNoMulti, &ReceiveFilter::no_multicast, kNetCtrlRxExtra},
      {kernel_abi::kNetCtrlRxNoUni, &ReceiveFilter::no_unicast, kNetCtrlRxExtra},
      {kernel_abi::kNetCtrlRxNoBcast, &ReceiveFilter::no_broadcast, kNetCtrlRxExtra},
  };
  for (const Mode& mode : kModes) {
    if (mode.command != command || !acked.Has(mode.needs)) continue;
    const std::optional<uint8_t> on = data.TakeLast<uint8_t>();
    if (!on.has_value()) return false;
    filter.*mode.flag = *on != 0;
    return true;
  }
  return false;
}

bool SetMac(uint8_t command, Data data, VirtioFeatures acked, ReceiveFilter& filter) {
  if (command == kernel_abi::kNetCtrlMacTableSet && acked.Has(kNetCtrlRx)) {
    std::optional<MacTable> unicast = TakeMacTable(data);
    if (!unicast.has_value()) return false;
    std::optional<MacTable> multicast = TakeMacTable(data);
    if (!multicast.has_value() || !data.empty()) return false;
    filter.unicast = std::move(unicast->addresses);
    filter.unicast_overflow = unicast->overflow;
    filter.multicast = std::move(multicast->addresses);
    filter.multicast_overflow = multicast->overflow;
    return true;
  }
  if (command == kernel_abi::kNetCtrlMacAddrSet && acked.Has(kNetCtrlMacAddr)) {
    const std::optional<MacAddress> mac = data.TakeLast<MacAddress>();
    if (!mac.has_value() || !IsUsable(*mac)) return false;
    filter.mac = *mac;
    return true;
  }
  return false;
}

bool SetVlan(uint8_t command, Data data, VirtioFeatures acked, ReceiveFilter& filter) {
  if (!acked.Has(kNetCtrlVlan)) return false;
  if (command != kernel_abi::kNetCtrlVlanAdd && command != kernel_abi::kNetCtrlVlanDel) {
    return false;
  }
  const std::optional<uint16_t> vlan = data.TakeLast<uint16_t>();
  if (!vlan.has_value() || *vlan >= ReceiveFilter::kVlans) return false;
  filter.vlans[*vlan] = command == kernel_abi::kNetCtrlVlanAdd;
  return true;
}

bool SetQueuePairs(uint8_t command, Data data, VirtioFeatures acked, NetControlTarget& target) {
  if (command != kernel_abi::kNetCtrlMqVqPairsSet || !acked.Has(kNetMq)) return false;
  const std::optional<uint16_t> pairs = data.TakeLast<uint16_t>();
  if (!pairs.has_value() || *pairs < kernel_abi::kNetCtrlMqVqPairsMin ||
      *pairs > target.max_queue_pairs()) {
    return false;
  }
  return target.SetQueuePairs(*pairs).ok();
}

bool SetGuestOffloads(uint8_t command, Data data, VirtioFeatures acked, NetControlTarget& target) {
  if (command != kernel_abi::kNetCtrlGuestOffloadsSet || !acked.Has(kNetCtrlGuestOffloads)) {
    return false;
  }
  const std::optional<uint64_t> bits = data.TakeLast<uint64_t>();
  if (!bits.has_value()) return false;
  const VirtioFeatures offloads = VirtioFeatures::FromWords(*bits);
  // 5.1.6.5.6.1: only those that were negotiated; a set that lacks a requirement is refused too.
  if (!(acked & AllToGuestFeatures()).Contains(offloads)) return false;
  if (WithoutOrphans(offloads) != offloads) return false;
  return target.SetGuestOffloads(offloads).ok();
}

}  // namespace

uint8_t HandleNetCommand(std::span<const std::byte> command, VirtioFeatures acked,
                         ReceiveFilter& filter, NetControlTarget& target) {
  Data data(command);
  const std::optional<kernel_abi::VirtioNetCtrlHdr> header =
      data.Take<kernel_abi::VirtioNetCtrlHdr>();
  if (!header.has_value()) return kernel_abi::kNetCtrlErr;
  const uint8_t what = header->command;
  bool done = false;
  ReceiveFilter changed = filter;
  switch (header->ctrl_class) {
    case kernel_abi::kNetCtrlRx:
      done = SetReceiveMode(what, data, acked, changed);
      break;
    case kernel_abi::kNetCtrlMac:
      done = SetMac(what, data, acked, changed);
      break;
    case kernel_abi::kNetCtrlVlan:
      done = SetVlan(what, data, acked, changed);
      break;
    case kernel_abi::kNetCtrlAnnounce:
      done =
          what == kernel_abi::kNetCtrlAnnounceAck && acked.Has(kNetGuestAnnounce) && data.empty();
      if (done) target.AnnounceAcked();
      break;
    case kernel_abi::kNetCtrlMq:
      done = SetQueuePairs(what, data, acked, target);
      break;
    case kernel_abi::kNetCtrlGuestOffloads:
      done = SetGuestOffloads(what, data, acked, target);
      break;
    default:
      break;
  }
  if (done && changed != filter) {
    filter = std::move(changed);
    target.ReceiveFilterChanged();
  }
  return done ? kernel_abi::kNetCtrlOk : kernel_abi::kNetCtrlErr;
}

}  // namespace vhost

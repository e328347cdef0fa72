// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What has happened to a device: the last events and moves for its report, counts of all, and the
// way to whoever wants to hear of them at once.
//
// Thread safety: the device's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "vhost/device_event.h"
#include "vhost/event_relay.h"
#include "vhost/report.h"

namespace vhost {

class Journal {
 public:
  static constexpr size_t kEventsKept = 32;
  static constexpr size_t kHandoversKept = 16;

  // `relay` may be nullptr: the events are kept all the same.
  Journal(std::string device, EventRelay* relay) : device_(std::move(device)), relay_(relay) {}

  void Note(EventKind kind, std::string text, std::optional<int> queue = std::nullopt);
  // A move that was tried, with its problem if it failed. Sets its time.
  void NoteHandover(HandoverReport& handover);

  void Describe(DeviceReport& report) const;

 private:
  void Add(EventKind kind, EventReport event, const HandoverReport* handover);

  const std::string device_;
  EventRelay* const relay_;
  std::deque<EventReport> events_;
  std::deque<HandoverReport> handovers_;
  HandoverCounts counts_;
};

}  // namespace vhost

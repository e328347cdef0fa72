// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Device reports as JSON and back. docs/control-protocol.md describes the fields. What cannot be
// known is null. Addresses, lengths of memory and feature words are strings in hexadecimal
// ("0x7f3a00000000"), because most JSON readers keep only 53 bits of a number.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/device_event.h"
#include "vhost/report.h"

namespace vhost::control {

// What `list` tells of a device.
struct DeviceSummary {
  std::string name;
  DeviceId id = DeviceId::kNet;
  std::string transport;
  uint8_t status = 0;
  std::string policy;
  std::optional<BackendKind> backend;  // who serves, or would after DRIVER_OK
  bool running = false;
  bool paused = false;
  std::string problem;
  int queues = 0;
  int active_queues = 0;
  std::vector<std::string> taps;
  std::optional<uint64_t> guest_cid;
  std::vector<pid_t> worker_tids;
};
DeviceSummary Summarise(const DeviceReport& report);

// JSON objects, one line each without a newline.
std::string ToJson(const DeviceReport& report);
std::string ToJson(const DeviceSummary& summary);
std::string ToJson(const HandoverReport& handover);
std::string ToJson(const DeviceEvent& event);

// The reverse. Members that are missing leave the field at its default and unknown ones are passed
// over, so that a reader and a writer of different age understand each other. INVALID_ARGUMENT
// names the member whose value has the wrong type.
absl::StatusOr<DeviceReport> DeviceReportFromJson(absl::string_view json);
absl::StatusOr<DeviceSummary> DeviceSummaryFromJson(absl::string_view json);
absl::StatusOr<HandoverReport> HandoverReportFromJson(absl::string_view json);
// Without `kind`: the report's `what` has its name.
absl::StatusOr<DeviceEvent> DeviceEventFromJson(absl::string_view json);

// "ACKNOWLEDGE", "DRIVER", ... of a virtio device status; bits without a name as "bit 4".
std::vector<std::string> StatusNames(uint8_t status);

// Chains that the driver made available and that were not given back yet.
uint16_t InFlight(const VringIndices& indices);

}  // namespace vhost::control

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/report_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhost/control/json_reader.h"
#include "vhost/control/json_writer.h"

namespace vhost::control {
namespace {

template <typename Report>
absl::StatusOr<Report> Parse(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("report: not JSON");
  Report report;
  absl::Status error;
  JsonReader::Read(json, "", report, &error);
  if (!error.ok()) return error;
  return report;
}

}  // namespace

DeviceSummary Summarise(const DeviceReport& report) {
  DeviceSummary summary;
  summary.name = report.name;
  summary.id = report.id;
  summary.transport = report.transport;
  summary.status = report.status;
  summary.policy = report.policy;
  summary.problem = report.problem;
  summary.paused = report.paused;
  summary.queues = static_cast<int>(report.vrings.size());
  summary.active_queues = static_cast<int>(std::count_if(
      report.vrings.begin(), report.vrings.end(), [](const VringReport& v) { return v.active; }));
  summary.guest_cid = report.guest_cid;
  for (const TapReport& tap : report.taps) summary.taps.push_back(tap.name);
  if (report.backend.has_value()) {
    summary.backend = report.backend->kind;
    summary.running = report.backend->running;
    for (const WorkerReport& worker : report.backend->workers) {
      summary.worker_tids.push_back(worker.tid);
    }
  }
  return summary;
}

std::string ToJson(const DeviceReport& report) { return ToLine(JsonWriter().Write(report)); }
std::string ToJson(const HandoverReport& handover) { return ToLine(JsonWriter().Write(handover)); }
std::string ToJson(const DeviceEvent& event) { return ToLine(JsonWriter().Write(event)); }
std::string ToJson(const DeviceSummary& summary) { return ToLine(JsonWriter().Write(summary)); }

absl::StatusOr<DeviceReport> DeviceReportFromJson(absl::string_view json) {
  return Parse<DeviceReport>(json);
}
absl::StatusOr<DeviceSummary> DeviceSummaryFromJson(absl::string_view json) {
  return Parse<DeviceSummary>(json);
}

absl::StatusOr<HandoverReport> HandoverReportFromJson(absl::string_view json) {
  return Parse<HandoverReport>(json);
}

absl::StatusOr<DeviceEvent> DeviceEventFromJson(absl::string_view json) {
  return Parse<DeviceEvent>(json);
}

std::vector<std::string> StatusNames(uint8_t status) {
  // virtio 1.3, 2.1. Not device_status of device.h: this file is also linked into vhostctl, which
  // knows reports and no devices.
  static constexpr std::pair<int, const char*> kNames[] = {{0, "ACKNOWLEDGE"}, {1, "DRIVER"},
                                                           {2, "DRIVER_OK"},   {3, "FEATURES_OK"},
                                                           {6, "NEEDS_RESET"}, {7, "FAILED"}};
  std::vector<std::string> names;
  for (int bit = 0; bit < 8; ++bit) {
    if ((status >> bit & 1) == 0) continue;
    const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                     [bit](const auto& name) { return name.first == bit; });
    names.push_back(found != std::end(kNames) ? found->second : absl::StrCat("bit ", bit));
  }
  return names;
}

uint16_t InFlight(const VringIndices& indices) {
  return static_cast<uint16_t>(indices.avail - indices.used);
}

}  // namespace vhost::control

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/foreign/report.h"
#include "src/vhostctl/report_text.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

absl::StatusOr<std::string> Render(const Found& found, bool json) {
  if (json) {
    const auto text = control::Indent(absl::StrCat("{\"socket\":", control::Quoted(found.socket),
                                                   ",\"process\":", found.process_json,
                                                   ",\"device\":", found.device_json, "}"));
    if (!text.ok()) return text.status();
    return absl::StrCat(*text, "\n");
  }
  const absl::StatusOr<DeviceReport> report = control::DeviceReportFromJson(found.device_json);
  if (!report.ok()) return report.status();
  return ReportText(found.process, *report);
}

// PID/fdN: a device of a process that has no control socket.
struct ForeignName {
  pid_t pid = 0;
  std::string device;
};
std::optional<ForeignName> ParseForeign(const Invocation& invocation) {
  if (invocation.arguments.size() != 1 || !invocation.socket.empty() ||
      !invocation.directory.empty()) {
    return std::nullopt;
  }
  const std::vector<std::string> parts = absl::StrSplit(invocation.arguments[0], '/');
  ForeignName name;
  int fd = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &name.pid)) return std::nullopt;
  absl::string_view number = parts[1];
  if (!absl::ConsumePrefix(&number, "fd") || !absl::SimpleAtoi(number, &fd)) return std::nullopt;
  name.device = parts[1];
  return name;
}

Outcome ShowForeign(const ForeignName& name, bool json) {
  for (const ForeignProcess& process : FindForeign({})) {
    if (process.pid != name.pid) continue;
    for (const ForeignDevice& device : process.devices) {
      if (NameOf(device) != name.device) continue;
      if (!json) return {.out = TextOf(process, device)};
      const auto text =
          control::Indent(absl::StrCat("{\"socket\":null,\"process\":", ProcessJson(process),
                                       ",\"device\":", JsonOf(process, device), "}"));
      if (!text.ok()) return Failed(text.status());
      return {.out = absl::StrCat(*text, "\n")};
    }
    if (!process.fds_unknown.empty()) {
      return Failed(absl::PermissionDeniedError(process.fds_unknown));
    }
  }
  return Failed(
      absl::NotFoundError(absl::StrCat("process ", name.pid, " has no vhost node as ", name.device,
                                       "; vhostctl list shows those that "
                                       "there are")));
}

}  // namespace

Outcome Show(const Invocation& invocation) {
  if (const auto foreign = ParseForeign(invocation); foreign.has_value()) {
    return ShowForeign(*foreign, invocation.json);
  }
  Outcome outcome;
  const std::optional<Found> found = FindDevice(invocation, &outcome);
  if (!found.has_value()) return outcome;
  absl::StatusOr<std::string> text = Render(*found, invocation.json);
  if (!text.ok()) return Failed(text.status());
  outcome.out = *std::move(text);
  return outcome;
}

}  // namespace vhost::ctl

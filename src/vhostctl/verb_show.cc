// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/foreign/borrow.h"
#include "src/vhostctl/foreign/find.h"
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

Outcome ShowForeign(const ForeignName& name, bool json) {
  absl::StatusOr<FoundForeign> found = FindForeignDevice(name);
  if (!found.ok()) return Failed(found.status());
  AskTheKernel(kernel_abi::LinuxKernel(), &found->process, &found->device);
  if (!json) return {.out = TextOf(found->process, found->device)};
  const auto text =
      control::Indent(absl::StrCat("{\"socket\":null,\"process\":", ProcessJson(found->process),
                                   ",\"device\":", JsonOf(found->process, found->device), "}"));
  if (!text.ok()) return Failed(text.status());
  return {.out = absl::StrCat(*text, "\n")};
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

absl::StatusOr<std::string> Text(const Found& found, const std::string& result) {
  const auto json = control::Member(result, "handover");
  if (!json.ok()) return json.status();
  const auto handover = control::HandoverReportFromJson(*json);
  if (!handover.ok()) return handover.status();
  const std::string name =
      absl::StrCat(Printable(found.process.vm), "/", Printable(found.device), ": ");
  if (!handover->stopped_us.has_value()) {
    return absl::StrCat(name,
                        handover->from == handover->to
                            ? absl::StrCat("is with the ", Name(handover->to), " backend")
                            : absl::StrCat("will start with the ", Name(handover->to), " backend"),
                        "\n");
  }
  return absl::StrCat(name, "from ", Name(handover->from), " to ", Name(handover->to),
                      ", stopped for ", *handover->stopped_us, " us\n");
}

}  // namespace

Outcome Handover(const Invocation& invocation) {
  if (invocation.to.empty()) return WrongUsage("handover needs --to in-process or --to kernel");
  Outcome outcome;
  const std::optional<Found> found = FindDevice(invocation, &outcome);
  if (!found.has_value()) return outcome;
  const absl::StatusOr<std::string> result =
      Ask(found->socket, {.command = "handover",
                          .device = found->device,
                          .to = invocation.to,
                          .reason = invocation.reason.empty() ? "vhostctl" : invocation.reason});
  if (!result.ok()) return Failed(result.status());
  const absl::StatusOr<std::string> text =
      invocation.json ? control::Indent(*result) : Text(*found, *result);
  if (!text.ok()) return Failed(text.status());
  outcome.out = invocation.json ? absl::StrCat(*text, "\n") : *text;
  return outcome;
}

}  // namespace vhost::ctl

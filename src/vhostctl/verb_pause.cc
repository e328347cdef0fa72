// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {
namespace {

Outcome Send(const Invocation& invocation, const char* command, const char* done) {
  Outcome outcome;
  const std::optional<Found> found = FindDevice(invocation, &outcome);
  if (!found.has_value()) return outcome;
  const absl::StatusOr<std::string> result =
      Ask(found->socket, {.command = command,
                          .device = found->device,
                          .reason = invocation.reason.empty() ? "vhostctl" : invocation.reason});
  if (!result.ok()) return Failed(result.status());
  if (invocation.json) {
    const absl::StatusOr<std::string> json = control::Indent(*result);
    if (!json.ok()) return Failed(json.status());
    outcome.out = absl::StrCat(*json, "\n");
  } else {
    outcome.out =
        absl::StrCat(Printable(found->process.vm), "/", Printable(found->device), ": ", done, "\n");
  }
  return outcome;
}

}  // namespace

Outcome Pause(const Invocation& invocation) { return Send(invocation, "pause", "paused"); }
Outcome Resume(const Invocation& invocation) { return Send(invocation, "resume", "goes on"); }

}  // namespace vhost::ctl

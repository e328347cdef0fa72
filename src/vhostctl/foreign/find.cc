// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/foreign/find.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace vhost::ctl {

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

absl::StatusOr<FoundForeign> FindForeignDevice(const ForeignName& name) {
  for (const ForeignProcess& process : FindForeign({})) {
    if (process.pid != name.pid) continue;
    for (const ForeignDevice& device : process.devices) {
      if (NameOf(device) == name.device) return FoundForeign{process, device};
    }
    if (!process.fds_unknown.empty()) return absl::PermissionDeniedError(process.fds_unknown);
  }
  return absl::NotFoundError(absl::StrCat("process ", name.pid, " has no vhost node as ",
                                          name.device,
                                          "; vhostctl list shows those that there are"));
}

}  // namespace vhost::ctl

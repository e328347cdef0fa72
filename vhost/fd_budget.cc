// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/fd_budget.h"

#include <dirent.h>
#include <sys/resource.h>

#include <memory>
#include <optional>

#include "absl/strings/str_format.h"

namespace vhost {
namespace {

// nullopt: /proc is not mounted, or no fd is left to look with.
std::optional<rlim_t> CountOpenFds() {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/proc/self/fd"), &closedir);
  if (dir == nullptr) return std::nullopt;
  rlim_t count = 0;
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] != '.') ++count;
  }
  return count - 1;  // The one that it was read through.
}

}  // namespace

absl::Status CheckFdBudget(int needed) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return absl::OkStatus();
  }
  const std::optional<rlim_t> open = CountOpenFds();
  if (!open.has_value() || *open + static_cast<rlim_t>(needed) <= limit.rlim_cur) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrFormat(
      "needs %d file descriptors, and %d of the %d that RLIMIT_NOFILE allows are open; raise it to "
      "%d or more with `ulimit -n`, LimitNOFILE= of systemd, or setrlimit (hard limit: %d)",
      needed, *open, limit.rlim_cur, *open + static_cast<rlim_t>(needed), limit.rlim_max));
}

}  // namespace vhost

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "src/vhostctl/metrics/device_metrics.h"
#include "src/vhostctl/verb.h"
#include "src/vhostctl/whole_file.h"

namespace vhost::ctl {
Outcome Metrics(const Invocation& invocation) {
  if (!invocation.arguments.empty()) return WrongUsage("metrics takes no arguments");
  if (invocation.json) return WrongUsage("metrics has a format of its own; see show --json");
  const std::string& path = invocation.textfile;
  if (!path.empty() && !absl::EndsWith(path, ".prom")) {
    return WrongUsage("--textfile: the collector reads files that end with .prom");
  }
  const Gathered gathered = Gather(invocation);
  std::set<pid_t> ours;
  for (const ProcessReports& process : gathered.processes) ours.insert(process.process.pid);
  std::vector<ForeignProcess> foreign;
  if (invocation.socket.empty() && invocation.directory.empty()) foreign = FindForeign(ours);
  const Exposition exposition = MetricsOf(gathered, foreign);
  Outcome outcome = {.code = gathered.code, .err = gathered.errors};
  if (path.empty()) {
    outcome.out = exposition.Text(MetricFormat::kOpenMetrics);
    return outcome;
  }
  // The collector runs as another user.
  const absl::Status written = WriteWhole(path, exposition.Text(MetricFormat::kText), 0644);
  return written.ok() ? outcome : Failed(written);
}

}  // namespace vhost::ctl

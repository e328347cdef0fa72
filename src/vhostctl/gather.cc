// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/gather.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "src/vhostctl/client.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

absl::StatusOr<ProcessReports> Read(const Answer& answer) {
  if (!answer.result.ok()) return answer.result.status();
  ProcessReports reports = {.socket = answer.socket, .when = answer.when};
  const auto process = control::Member(*answer.result, "process");
  if (!process.ok()) return process.status();
  auto info = control::ProcessInfoFromJson(*process);
  if (!info.ok()) return info.status();
  reports.process = *std::move(info);
  const auto list = control::Member(*answer.result, "devices");
  if (!list.ok()) return list.status();
  const auto devices = control::Elements(*list);
  if (!devices.ok()) return devices.status();
  for (const std::string& json : *devices) {
    auto report = control::DeviceReportFromJson(json);
    if (!report.ok()) return report.status();
    reports.devices.push_back(*std::move(report));
  }
  return reports;
}

}  // namespace

Gathered Gather(const Invocation& invocation) {
  Gathered gathered;
  const std::vector<Answer> answers = AskAll(invocation, {.command = "show"});
  for (const Answer& answer : answers) {
    absl::StatusOr<ProcessReports> reports = Read(answer);
    if (reports.ok()) {
      gathered.processes.push_back(*std::move(reports));
      continue;
    }
    gathered.silent.push_back(answer.socket);
    gathered.code = ExitCodeOf(reports.status());
    absl::StrAppend(&gathered.errors, Printable(answer.socket), ": ",
                    Printable(std::string(reports.status().message())), "\n");
  }
  return gathered;
}

}  // namespace vhost::ctl

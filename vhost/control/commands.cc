// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/commands.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/control/report_json.h"

namespace vhost::control {
namespace {

// Results are JSON made of JSON: what a function below joins are whole values already.

absl::StatusOr<std::string> List(const Subject& subject, const Request&) {
  const std::vector<DeviceReport> reports = subject.Describe();
  return absl::StrCat("{\"process\":", ToJson(subject.Process()), ",\"devices\":[",
                      absl::StrJoin(reports, ",",
                                    [](std::string* out, const DeviceReport& report) {
                                      out->append(ToJson(Summarise(report)));
                                    }),
                      "]}");
}

absl::StatusOr<std::string> Show(const Subject& subject, const Request& request) {
  std::vector<DeviceReport> reports;
  if (request.device.empty()) {
    reports = subject.Describe();
  } else {
    absl::StatusOr<DeviceReport> report = subject.Describe(request.device);
    if (!report.ok()) return report.status();
    reports.push_back(*std::move(report));
  }
  return absl::StrCat("{\"process\":", ToJson(subject.Process()), ",\"devices\":[",
                      absl::StrJoin(reports, ",",
                                    [](std::string* out, const DeviceReport& report) {
                                      out->append(ToJson(report));
                                    }),
                      "]}");
}

struct Command {
  const char* name;
  absl::StatusOr<std::string> (*run)(const Subject&, const Request&);
};

constexpr Command kCommands[] = {
    {"list", List},
    {"show", Show},
};

absl::StatusOr<std::string> Run(const Subject& subject, const Request& request) {
  for (const Command& command : kCommands) {
    if (request.command == command.name) return command.run(subject, request);
  }
  return absl::UnimplementedError(absl::StrCat(
      "request: no command \"", request.command, "\" here; there are ",
      absl::StrJoin(kCommands, ", ",
                    [](std::string* out, const Command& command) { out->append(command.name); })));
}

}  // namespace

std::string Answer(const Subject& subject, absl::string_view line) {
  std::string id = "null";
  const absl::StatusOr<Request> request = ParseRequest(line, &id);
  if (!request.ok()) return ErrorLine(id, request.status());
  const absl::StatusOr<std::string> result = Run(subject, *request);
  return result.ok() ? OkLine(id, *result) : ErrorLine(id, result.status());
}

}  // namespace vhost::control

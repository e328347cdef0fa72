// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/commands.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhost/control/capture_json.h"
#include "vhost/control/report_json.h"

namespace vhost::control {
namespace {

// Results are JSON made of JSON: what a function below joins are whole values already.

absl::StatusOr<std::string> List(Subject& subject, const Request&) {
  const std::vector<DeviceReport> reports = subject.Describe();
  return absl::StrCat("{\"process\":", ToJson(subject.Process()), ",\"devices\":[",
                      absl::StrJoin(reports, ",",
                                    [](std::string* out, const DeviceReport& report) {
                                      out->append(ToJson(Summarise(report)));
                                    }),
                      "]}");
}

absl::StatusOr<std::string> Show(Subject& subject, const Request& request) {
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

absl::Status CheckDeviceNamed(const Request& request) {
  if (!request.device.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request: ", request.command,
                                                 " of which device? "
                                                 "\"device\" is missing"));
}

absl::StatusOr<BackendKind> KindFromName(absl::string_view name) {
  for (const BackendKind kind :
       {BackendKind::kKernel, BackendKind::kInProcess, BackendKind::kVhostUser}) {
    if (name == Name(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("request: \"to\" must be kernel, in-process or vhost-user, not \"",
                   name.substr(0, 32), "\""));
}

absl::StatusOr<std::string> Handover(Subject& subject, const Request& request) {
  if (absl::Status status = CheckDeviceNamed(request); !status.ok()) return status;
  const absl::StatusOr<BackendKind> to = KindFromName(request.to);
  if (!to.ok()) return to.status();
  const absl::StatusOr<HandoverReport> handover =
      subject.Handover(request.device, *to, request.reason);
  if (!handover.ok()) return handover.status();
  return absl::StrCat("{\"process\":", ToJson(subject.Process()),
                      ",\"device\":", Quoted(request.device), ",\"handover\":", ToJson(*handover),
                      "}");
}

std::string PauseResult(const Subject& subject, const Request& request, bool paused) {
  return absl::StrCat("{\"process\":", ToJson(subject.Process()),
                      ",\"device\":", Quoted(request.device),
                      ",\"paused\":", paused ? "true" : "false", "}");
}

absl::StatusOr<std::string> Pause(Subject& subject, const Request& request) {
  absl::Status status = CheckDeviceNamed(request);
  if (status.ok()) status = subject.Pause(request.device, request.reason);
  if (!status.ok()) return status;
  return PauseResult(subject, request, true);
}

absl::StatusOr<std::string> Resume(Subject& subject, const Request& request) {
  absl::Status status = CheckDeviceNamed(request);
  if (status.ok()) status = subject.Resume(request.device);
  if (!status.ok()) return status;
  return PauseResult(subject, request, false);
}

absl::StatusOr<std::string> Capture(Subject& subject, const Request& request) {
  if (absl::Status status = CheckDeviceNamed(request); !status.ok()) return status;
  const absl::StatusOr<CaptureBatch> batch =
      subject.Capture(request.device, {.after = request.after, .snaplen = request.snaplen});
  if (!batch.ok()) return batch.status();
  return absl::StrCat("{\"process\":", ToJson(subject.Process()),
                      ",\"device\":", Quoted(request.device), ",", CaptureMembers(*batch), "}");
}

absl::StatusOr<std::string> Plug(Subject& subject, const Request& request) {
  if (request.description.empty()) {
    return absl::InvalidArgumentError("request: plug what? \"description\" is missing");
  }
  const absl::StatusOr<std::string> device = subject.Plug(request.description);
  if (!device.ok()) return device.status();
  return absl::StrCat("{\"process\":", ToJson(subject.Process()), ",\"device\":", Quoted(*device),
                      "}");
}

absl::StatusOr<std::string> Unplug(Subject& subject, const Request& request) {
  absl::Status status = CheckDeviceNamed(request);
  if (status.ok()) status = subject.Unplug(request.device);
  if (!status.ok()) return status;
  return absl::StrCat("{\"process\":", ToJson(subject.Process()),
                      ",\"device\":", Quoted(request.device), "}");
}

// The connection streams what is published from now on (Server::Publish).
absl::StatusOr<std::string> Events(Subject& subject, const Request& request) {
  if (!request.device.empty()) {
    const absl::StatusOr<DeviceReport> report = subject.Describe(request.device);
    if (!report.ok()) return report.status();
  }
  return absl::StrCat("{\"process\":", ToJson(subject.Process()), "}");
}

struct Command {
  const char* name;
  absl::StatusOr<std::string> (*run)(Subject&, const Request&);
  bool subscribes = false;  // events follow the reply
};

constexpr Command kCommands[] = {
    {"list", List},
    {"show", Show},
    {"handover", Handover},
    {"pause", Pause},
    {"resume", Resume},
    {"capture", Capture},
    {"events", Events, /*subscribes=*/true},
    {"plug", Plug},
    {"unplug", Unplug},
};

absl::StatusOr<const Command*> FindCommand(const Request& request) {
  for (const Command& command : kCommands) {
    if (request.command == command.name) return &command;
  }
  return absl::UnimplementedError(absl::StrCat(
      "request: no command \"", request.command, "\" here; there are ",
      absl::StrJoin(kCommands, ", ",
                    [](std::string* out, const Command& command) { out->append(command.name); })));
}

}  // namespace

absl::StatusOr<std::string> Subject::Plug(absl::string_view) {
  return absl::UnimplementedError("this VMM adds no devices while its guest runs");
}

absl::Status Subject::Unplug(absl::string_view) {
  return absl::UnimplementedError("this VMM removes no devices while its guest runs");
}

Reply Answer(Subject& subject, absl::string_view line) {
  std::string id = "null";
  const absl::StatusOr<Request> request = ParseRequest(line, &id);
  if (!request.ok()) return ErrorLine(id, request.status());
  const absl::StatusOr<const Command*> command = FindCommand(*request);
  if (!command.ok()) return ErrorLine(id, command.status());
  const absl::StatusOr<std::string> result = (*command)->run(subject, *request);
  if (!result.ok()) return ErrorLine(id, result.status());
  if (!(*command)->subscribes) return OkLine(id, *result);
  return {OkLine(id, *result), {.id = id, .device = request->device}};
}

}  // namespace vhost::control

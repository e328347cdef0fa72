// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/find_device.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "src/vhostctl/client.h"

namespace vhost::ctl {
namespace {

struct DeviceName {
  std::string vm;  // name or process ID; empty: any
  std::string device;
};
DeviceName Split(const std::string& argument) {
  const size_t slash = argument.find('/');
  if (slash == std::string::npos) return {"", argument};
  return {argument.substr(0, slash), argument.substr(slash + 1)};
}

absl::StatusOr<Found> Read(const Answer& answer) {
  if (!answer.result.ok()) return answer.result.status();
  Found found;
  found.socket = answer.socket;
  auto process_json = control::Member(*answer.result, "process");
  if (!process_json.ok()) return process_json.status();
  found.process_json = *std::move(process_json);
  auto process = control::ProcessInfoFromJson(found.process_json);
  if (!process.ok()) return process.status();
  found.process = *std::move(process);
  const auto list = control::Member(*answer.result, "devices");
  if (!list.ok()) return list.status();
  auto devices = control::Elements(*list);
  if (!devices.ok()) return devices.status();
  if (devices->size() != 1) return absl::DataLossError("answered with more than one device");
  found.device_json = std::move(devices->front());
  return found;
}

bool IsOf(const std::string& vm, const control::ProcessInfo& process) {
  return vm.empty() || vm == process.vm || vm == absl::StrCat(process.pid);
}

absl::Status Ambiguous(const std::string& device, const std::vector<Found>& found) {
  return absl::FailedPreconditionError(
      absl::StrCat(device, ": several VMs have one: ",
                   absl::StrJoin(found, ", ", [&](std::string* out, const Found& one) {
                     absl::StrAppend(out, Printable(one.process.vm), "/", device, " (",
                                     one.process.pid, "/", device, ")");
                   })));
}

}  // namespace

std::optional<Found> FindDevice(const Invocation& invocation, Outcome* outcome) {
  if (invocation.arguments.size() != 1 || invocation.arguments[0].empty()) {
    *outcome = WrongUsage(absl::StrCat(invocation.verb, " takes one argument, [VM/]DEVICE"));
    return std::nullopt;
  }
  const DeviceName name = Split(invocation.arguments[0]);
  if (name.device.empty()) {
    *outcome = WrongUsage(absl::StrCat(invocation.verb, ": no DEVICE after the VM"));
    return std::nullopt;
  }
  std::vector<Found> matches;
  absl::Status failure;  // of a process that may have the device and could not be asked
  for (const Answer& answer : AskAll(invocation, {.command = "show", .device = name.device})) {
    absl::StatusOr<Found> found = Read(answer);
    if (found.ok()) {
      if (IsOf(name.vm, found->process)) matches.push_back(*std::move(found));
    } else if (!absl::IsNotFound(found.status())) {
      failure = found.status();
      absl::StrAppend(&outcome->err, Printable(answer.socket), ": ",
                      Printable(std::string(failure.message())), "\n");
    }
  }
  if (matches.size() > 1) {
    *outcome = Failed(Ambiguous(name.device, matches));
    return std::nullopt;
  }
  if (matches.empty()) {
    outcome->code = failure.ok() ? kNotFound : ExitCodeOf(failure);
    absl::StrAppend(&outcome->err, Printable(invocation.arguments[0]),
                    ": no such device; vhostctl list shows those that there are\n");
    return std::nullopt;
  }
  matches[0].device = name.device;
  return std::move(matches[0]);
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {
namespace {

constexpr absl::Duration kPollPeriod = absl::Milliseconds(100);
constexpr int kDefaultTimeoutS = 10;
constexpr int kMostTimeoutS = 3600;

struct Process {
  std::string socket;
  control::ProcessInfo info;
};

// The only process that answers, or the only one of that name or process ID.
std::optional<Process> FindProcess(const Invocation& invocation, const std::string& vm,
                                   Outcome* outcome) {
  std::vector<Process> matches;
  for (const Answer& answer : AskAll(invocation, {.command = "list"})) {
    absl::Status status = answer.result.status();
    if (status.ok()) {
      const auto json = control::Member(*answer.result, "process");
      const auto info = json.ok() ? control::ProcessInfoFromJson(*json)
                                  : absl::StatusOr<control::ProcessInfo>(json.status());
      status = info.status();
      if (info.ok() && (vm.empty() || vm == info->vm || vm == absl::StrCat(info->pid))) {
        matches.push_back({answer.socket, *info});
      }
    }
    if (!status.ok()) {
      outcome->code = ExitCodeOf(status);
      absl::StrAppend(&outcome->err, Printable(answer.socket), ": ",
                      Printable(std::string(status.message())), "\n");
    }
  }
  if (matches.size() == 1) {
    outcome->code = kOk;
    return matches[0];
  }
  if (matches.size() > 1) {
    std::string names;
    for (const Process& match : matches) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", Printable(match.info.vm), " (",
                      match.info.pid, ")");
    }
    *outcome = WrongUsage(absl::StrCat(invocation.verb, ": of which VM? There are ", names));
    return std::nullopt;
  }
  if (outcome->code == kOk) outcome->code = kNotFound;
  absl::StrAppend(&outcome->err, vm.empty() ? "" : absl::StrCat(Printable(vm), ": "),
                  "no such VM; vhostctl list shows those that there are\n");
  return std::nullopt;
}

// What was asked for is done: as JSON, or in words.
Outcome Done(const Invocation& invocation, const std::string& result, const std::string& text) {
  Outcome outcome{.out = text};
  if (invocation.json) {
    const absl::StatusOr<std::string> json = control::Indent(result);
    if (!json.ok()) return Failed(json.status());
    outcome.out = absl::StrCat(*json, "\n");
  }
  return outcome;
}

}  // namespace

Outcome Plug(const Invocation& invocation) {
  const size_t count = invocation.arguments.size();
  if (count < 1 || count > 2 || invocation.arguments.back().empty()) {
    return WrongUsage("plug takes [VM] and what to add, such as virtio-net-pci,id=net1,tap=tap1");
  }
  Outcome outcome;
  const std::optional<Process> process =
      FindProcess(invocation, count == 2 ? invocation.arguments[0] : "", &outcome);
  if (!process.has_value()) return outcome;
  const absl::StatusOr<std::string> result =
      Ask(process->socket, {.command = "plug", .description = invocation.arguments.back()});
  if (!result.ok()) return Failed(result.status());
  const absl::StatusOr<std::string> device = control::Member(*result, "device");
  if (!device.ok()) return Failed(device.status());
  // A JSON string; what is between the quotes is near enough to the name for people.
  const std::string name = device->size() > 2 ? device->substr(1, device->size() - 2) : "?";
  return Done(invocation, *result,
              absl::StrCat(Printable(process->info.vm), "/", Printable(name), ": plugged\n"));
}

Outcome Unplug(const Invocation& invocation) {
  int timeout_s = kDefaultTimeoutS;
  if (!invocation.timeout.empty() && (!absl::SimpleAtoi(invocation.timeout, &timeout_s) ||
                                      timeout_s < 0 || timeout_s > kMostTimeoutS)) {
    return WrongUsage(absl::StrCat("--timeout ", invocation.timeout, ": a number from 0 to ",
                                   kMostTimeoutS, " is needed"));
  }
  Outcome outcome;
  const std::optional<Found> found = FindDevice(invocation, &outcome);
  if (!found.has_value()) return outcome;
  const std::string name =
      absl::StrCat(Printable(found->process.vm), "/", Printable(found->device));
  const absl::StatusOr<std::string> result =
      Ask(found->socket, {.command = "unplug", .device = found->device});
  if (!result.ok()) return Failed(result.status());
  const absl::Time deadline = absl::Now() + absl::Seconds(timeout_s);
  for (;;) {
    const absl::Status there =
        Ask(found->socket, {.command = "show", .device = found->device}).status();
    if (absl::IsNotFound(there)) {
      return Done(invocation, *result, absl::StrCat(name, ": unplugged\n"));
    }
    if (!there.ok()) return Failed(there);
    if (absl::Now() >= deadline) break;
    absl::SleepFor(kPollPeriod);
  }
  // The process did answer; it is the guest that has not.
  return Failed(absl::AbortedError(absl::StrCat(name, ": the guest has not let go of it after ",
                                                timeout_s, " s; it goes when the guest does")));
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/columns.h"
#include "src/vhostctl/foreign/report.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/protocol.h"
#include "vhost/control/report_json.h"
#include "vhost/device/device.h"

namespace vhost::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

const char* StateOf(const control::DeviceSummary& device) {
  if ((device.status & device_status::kNeedsReset) != 0) return "needs-reset";
  if ((device.status & device_status::kFailed) != 0) return "failed";
  if (device.paused) return "paused";
  if (device.running) return "running";
  if ((device.status & device_status::kDriverOk) != 0) return "stopped";
  return device.status == 0 ? "no-driver" : "starting";
}

std::string OrDash(std::string text) { return text.empty() ? "-" : text; }

std::string PeerOf(const control::DeviceSummary& device) {
  if (device.guest_cid.has_value()) return absl::StrCat("cid ", *device.guest_cid);
  return OrDash(absl::StrJoin(device.taps, ","));
}

absl::Status AddRows(const std::string& result, Rows* rows, std::set<pid_t>* pids) {
  const auto process_json = control::Member(result, "process");
  if (!process_json.ok()) return process_json.status();
  const auto process = control::ProcessInfoFromJson(*process_json);
  if (!process.ok()) return process.status();
  pids->insert(process->pid);
  const auto list = control::Member(result, "devices");
  if (!list.ok()) return list.status();
  const auto devices = control::Elements(*list);
  if (!devices.ok()) return devices.status();
  for (const std::string& json : *devices) {
    const auto device = control::DeviceSummaryFromJson(json);
    if (!device.ok()) return device.status();
    rows->push_back(
        {OrDash(process->vm), absl::StrCat(process->pid), device->name, Name(device->id),
         device->backend.has_value() ? Name(*device->backend) : "none", StateOf(*device),
         absl::StrCat(device->active_queues, "/", device->queues), PeerOf(*device),
         OrDash(absl::StrJoin(device->worker_tids, ",")), OrDash(device->transport)});
  }
  return absl::OkStatus();
}

// The same as JSON: what each process answered, and what is seen of those that cannot be asked.
std::string AsJson(const std::vector<Answer>& answers, const std::vector<ForeignProcess>& foreign) {
  std::vector<std::string> vms;
  for (const Answer& answer : answers) {
    if (!answer.result.ok()) continue;
    vms.push_back(absl::StrCat("{\"socket\":", control::Quoted(answer.socket),
                               ",\"result\":", *answer.result, "}"));
  }
  for (const ForeignProcess& process : foreign) {
    vms.push_back(absl::StrCat("{\"socket\":null,\"result\":", JsonOf(process), "}"));
  }
  return JsonList(vms);
}

}  // namespace

Outcome List(const Invocation& invocation) {
  if (!invocation.arguments.empty()) return WrongUsage("list takes no arguments");
  const std::vector<Answer> answers = AskAll(invocation, {.command = "list"});
  Outcome outcome;
  std::set<pid_t> pids;
  Rows rows = {{"VM", "PID", "DEVICE", "TYPE", "BACKEND", "STATE", "QUEUES", "PEER", "WORKERS",
                "TRANSPORT"}};
  for (const Answer& answer : answers) {
    absl::Status status = answer.result.status();
    if (status.ok()) status = AddRows(*answer.result, &rows, &pids);
    if (!status.ok()) {
      outcome.code = ExitCodeOf(status);
      absl::StrAppend(&outcome.err, Printable(answer.socket), ": ",
                      Printable(std::string(status.message())), "\n");
    }
  }
  // Who names a socket or a folder of sockets asks for those.
  std::vector<ForeignProcess> foreign;
  if (invocation.socket.empty() && invocation.directory.empty()) foreign = FindForeign(pids);
  for (const ForeignProcess& process : foreign) {
    for (std::vector<std::string>& row : RowsOf(process)) rows.push_back(std::move(row));
  }
  if (invocation.json) {
    const absl::StatusOr<std::string> json = control::Indent(AsJson(answers, foreign));
    if (!json.ok()) return Failed(json.status());
    outcome.out = absl::StrCat(*json, "\n");
    return outcome;
  }
  for (std::vector<std::string>& row : rows) {
    for (std::string& cell : row) cell = Printable(cell);
  }
  if (rows.size() > 1) outcome.out = Columns(rows);
  if (!foreign.empty()) {
    outcome.out += "?: not to be known from outside; vhostctl show PID/fdN says why\n";
  }
  return outcome;
}

}  // namespace vhost::ctl

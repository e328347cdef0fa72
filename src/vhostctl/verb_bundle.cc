// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// All that a bug report wants to know, in one JSON object. No payload is in it: reports have
// addresses, sizes and counts; names of VMs, users and interfaces are in it, and so are MACs.
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernel-abi/system_error.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/foreign/report.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/proc_files.h"
#include "src/vhostctl/verb.h"
#include "src/vhostctl/whole_file.h"
#include "vhost/version.h"

namespace vhost::ctl {
namespace {

// A file of /proc as a JSON string, or why it cannot be read.
void AddFile(JsonObject& to, const char* key, const std::string& path) {
  int error = 0;
  const auto text = ReadText(path, &error);
  if (text.has_value()) {
    to.Text(key, *text);
  } else {
    to.Json(key, "null").Text(absl::StrCat(key, "_unknown"), kernel_abi::ErrnoText(error));
  }
}

// What the threads of a process are doing: their kernel stacks are for root alone.
std::string ThreadsOf(pid_t pid) {
  std::vector<std::string> threads;
  const std::string folder = absl::StrCat("/proc/", pid, "/task");
  for (const std::string& name : NamesIn(folder)) {
    const std::string thread = absl::StrCat(folder, "/", name, "/");
    JsonObject object;
    object.Text("tid", name);
    for (const char* file : {"comm", "schedstat", "wchan", "stack"}) {
      AddFile(object, file, thread + file);
    }
    const std::string status = ReadText(thread + "status").value_or("");
    for (const char* key :
         {"State", "Cpus_allowed_list", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}) {
      object.Text(key, StatusField(status, key));
    }
    threads.push_back(object.Done());
  }
  return JsonList(threads);
}

std::string Processes(const std::vector<Answer>& answers, const Invocation& invocation) {
  std::vector<std::string> processes;
  std::set<pid_t> ours;
  for (const Answer& answer : answers) {
    JsonObject object;
    object.Text("socket", answer.socket);
    if (!answer.result.ok()) {
      object.Text("error", std::string(answer.result.status().message()));
      processes.push_back(object.Done());
      continue;
    }
    object.Json("result", *answer.result);
    const auto json = control::Member(*answer.result, "process");
    const auto info = json.ok() ? control::ProcessInfoFromJson(*json) : json.status();
    if (info.ok()) {
      ours.insert(info->pid);
      object.Json("threads", ThreadsOf(info->pid));
    }
    processes.push_back(object.Done());
  }
  if (!invocation.socket.empty() || !invocation.directory.empty()) return JsonList(processes);
  for (const ForeignProcess& process : FindForeign(ours)) {
    processes.push_back(JsonObject()
                            .Json("socket", "null")
                            .Json("result", JsonOf(process))
                            .Json("threads", ThreadsOf(process.pid))
                            .Done());
  }
  return JsonList(processes);
}

}  // namespace

Outcome Bundle(const Invocation& invocation) {
  if (!invocation.arguments.empty()) return WrongUsage("bundle takes no arguments");
  const Outcome doctor = Doctor({.verb = "doctor", .json = true});
  const std::string json =
      JsonObject()
          .Text("bundle_of", absl::StrCat("vhostctl ", LibraryVersion()))
          .Text("time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()))
          .Text("kernel", ReadText("/proc/version").value_or(""))
          .Text("kernel_command_line", ReadText("/proc/cmdline").value_or(""))
          .Json("doctor", doctor.out.empty() ? "null" : doctor.out)
          .Json("processes", Processes(AskAll(invocation, {.command = "show"}), invocation))
          .Done();
  const absl::StatusOr<std::string> text = control::Indent(json);
  if (!text.ok()) return Failed(text.status());
  if (invocation.output.empty()) return {.out = absl::StrCat(*text, "\n")};
  // For its owner: names and addresses are in it.
  const absl::Status written = WriteWhole(invocation.output, absl::StrCat(*text, "\n"), 0600);
  if (!written.ok()) return Failed(written);
  return {.out = absl::StrCat("wrote ", Printable(invocation.output), ", ", text->size() + 1,
                              " bytes; look through it before you pass it on\n")};
}

}  // namespace vhost::ctl

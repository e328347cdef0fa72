// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernel-abi/kernel.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/doctor/diagnosis.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {
namespace {

void Append(const Finding& finding, std::string* out) {
  absl::StrAppendFormat(out, "  %-8s %s: %s\n", Name(finding.level), Printable(finding.check),
                        Printable(finding.found));
  if (!finding.meaning.empty()) absl::StrAppendFormat(out, "           %s\n", finding.meaning);
  for (const std::string& mend : finding.mend) {
    absl::StrAppendFormat(out, "           mend: %s\n", Printable(mend));
  }
}

std::string Text(const Diagnosis& diagnosis) {
  std::string out;
  for (const Area& area : diagnosis.areas) {
    absl::StrAppend(&out, area.title, ": ", area.possible() ? "yes" : "NO", "\n");
    for (const Finding& finding : area.findings) Append(finding, &out);
  }
  absl::StrAppend(&out, "All of them\n");
  for (const Finding& finding : diagnosis.host) Append(finding, &out);
  return out;
}

std::string Json(const Finding& finding) {
  return JsonObject()
      .Text("check", finding.check)
      .Text("level", Name(finding.level))
      .Text("found", finding.found)
      .Text("meaning", finding.meaning)
      .Json("mend", JsonStrings(finding.mend))
      .Done();
}

std::string Json(const std::vector<Finding>& findings) {
  std::vector<std::string> list;
  for (const Finding& finding : findings) list.push_back(Json(finding));
  return JsonList(list);
}

std::string Json(const Diagnosis& diagnosis) {
  std::vector<std::string> areas;
  for (const Area& area : diagnosis.areas) {
    areas.push_back(JsonObject()
                        .Text("purpose", Name(area.purpose))
                        .Text("title", area.title)
                        .Value("possible", area.possible())
                        .Json("findings", Json(area.findings))
                        .Done());
  }
  return JsonObject().Json("areas", JsonList(areas)).Json("host", Json(diagnosis.host)).Done();
}

// What has to be possible for exit code 0.
absl::StatusOr<std::vector<Purpose>> PurposesOf(const std::string& text) {
  if (text.empty()) return std::vector<Purpose>{Purpose::kNet, Purpose::kVsock, Purpose::kKvm};
  std::vector<Purpose> purposes;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    bool known = false;
    for (const Purpose purpose :
         {Purpose::kNet, Purpose::kVsock, Purpose::kKvm, Purpose::kInProcess}) {
      if (word != Name(purpose)) continue;
      purposes.push_back(purpose);
      known = true;
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("--for: no purpose \"", word, "\"; there are net, vsock, kvm, in-process"));
    }
  }
  return purposes;
}

bool Passes(const Diagnosis& diagnosis, const std::vector<Purpose>& purposes) {
  const auto failed = [](const Finding& finding) { return finding.level == Level::kFailure; };
  if (std::any_of(diagnosis.host.begin(), diagnosis.host.end(), failed)) return false;
  return std::all_of(purposes.begin(), purposes.end(), [&](Purpose purpose) {
    return std::any_of(diagnosis.areas.begin(), diagnosis.areas.end(), [&](const Area& area) {
      return area.purpose == purpose && area.possible();
    });
  });
}

}  // namespace

Outcome Doctor(const Invocation& invocation) {
  if (!invocation.arguments.empty()) return WrongUsage("doctor takes no arguments");
  const absl::StatusOr<std::vector<Purpose>> purposes = PurposesOf(invocation.purposes);
  if (!purposes.ok()) return WrongUsage(purposes.status().message());
  Wanted wanted = {.tap = invocation.tap};
  if (!invocation.queues.empty() && (!absl::SimpleAtoi(invocation.queues, &wanted.queue_pairs) ||
                                     wanted.queue_pairs < 1 || wanted.queue_pairs > 256)) {
    return WrongUsage("--queues: a number of queue pairs, 1 to 256");
  }
  std::optional<uint64_t> cid;
  if (!invocation.cid.empty() && !absl::SimpleAtoi(invocation.cid, &cid.emplace())) {
    return WrongUsage("--cid: a number");
  }
  const Diagnosis diagnosis = Diagnose(ProbeHost(kernel_abi::LinuxKernel(), cid), wanted);
  Outcome outcome = {.code = Passes(diagnosis, *purposes) ? kOk : kFailure};
  if (!invocation.json) {
    outcome.out = Text(diagnosis);
    return outcome;
  }
  const absl::StatusOr<std::string> json = control::Indent(Json(diagnosis));
  if (!json.ok()) return Failed(json.status());
  outcome.out = absl::StrCat(*json, "\n");
  return outcome;
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/columns.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/rates_text.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string Cell(const std::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.0f", *value) : "-";
}
std::string Percent(const std::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.0f%%", *value * 100) : "-";
}

std::vector<std::string> RowOf(const QueueRates& rates) {
  return {rates.vm,
          rates.device,
          absl::StrCat(rates.queue),
          rates.role,
          rates.served_by,
          rates.depth.has_value() ? absl::StrCat(*rates.depth) : "-",
          Cell(rates.chains),
          Cell(rates.packets),
          Cell(rates.bytes),
          Cell(rates.kicks),
          Cell(rates.calls),
          Percent(rates.suppressed),
          rates.drop_reasons.empty()
              ? Cell(rates.drops)
              : absl::StrCat(Cell(rates.drops), " (", absl::StrJoin(rates.drop_reasons, ","), ")"),
          Percent(rates.cpu),
          Name(rates.condition)};
}

}  // namespace

Outcome Stats(const Invocation& invocation) {
  if (invocation.arguments.size() > 1) return WrongUsage("stats takes one argument, [VM/]DEVICE");
  const std::string wanted = invocation.arguments.empty() ? "" : invocation.arguments[0];
  const absl::StatusOr<double> interval_s = IntervalOf(invocation);
  if (!interval_s.ok()) return WrongUsage(interval_s.status().message());
  const Gathered before = Gather(invocation);
  absl::SleepFor(absl::Seconds(*interval_s));
  const Gathered after = Gather(invocation);
  Outcome outcome = {.code = after.code, .err = after.errors};
  Rows rows = {{"VM", "DEVICE", "QUEUE", "ROLE", "SERVED BY", "DEPTH", "CHAINS/s", "PACKETS/s",
                "BYTES/s", "KICKS/s", "CALLS/s", "SUPPRESSED", "DROPS/s", "CPU", ""}};
  std::vector<std::string> json;
  for (const QueueRates& rates : RatesOf(before, after)) {
    if (!IsMeant(wanted, rates)) continue;
    rows.push_back(RowOf(rates));
    for (std::string& cell : rows.back()) cell = Printable(cell);
    json.push_back(JsonOf(rates));
  }
  if (json.empty() && !wanted.empty() && outcome.code == kOk) {
    return Failed(
        absl::NotFoundError(absl::StrCat(Printable(wanted),
                                         ": no such device with an active queue; vhostctl list "
                                         "shows those that there are")));
  }
  if (invocation.json) {
    const auto text = control::Indent(JsonList(json));
    if (!text.ok()) return Failed(text.status());
    outcome.out = absl::StrCat(*text, "\n");
  } else if (rows.size() > 1) {
    outcome.out = Columns(rows);
  }
  return outcome;
}

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/rates_text.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/vhostctl/json_text.h"

namespace vhost::ctl {
namespace {

std::string Number(const std::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.6g", *value) : "null";
}

}  // namespace

std::string JsonOf(const QueueRates& rates) {
  return JsonObject()
      .Text("vm", rates.vm)
      .Value("pid", rates.pid)
      .Text("device", rates.device)
      .Value("queue", rates.queue)
      .Text("role", rates.role)
      .Text("served_by", rates.served_by)
      .Json("depth", rates.depth.has_value() ? absl::StrCat(*rates.depth) : "null")
      .Json("chains_per_s", Number(rates.chains))
      .Json("packets_per_s", Number(rates.packets))
      .Json("bytes_per_s", Number(rates.bytes))
      .Json("kicks_per_s", Number(rates.kicks))
      .Json("calls_per_s", Number(rates.calls))
      .Json("suppressed_calls", Number(rates.suppressed))
      .Json("drops_per_s", Number(rates.drops))
      .Json("drop_reasons", JsonStrings(rates.drop_reasons))
      .Json("cpus", Number(rates.cpu))
      .Value("stalled", rates.condition == Condition::kStalled)
      .Text("condition", Name(rates.condition))
      .Text("cause", rates.cause)
      .Done();
}

bool IsMeant(absl::string_view argument, const QueueRates& rates) {
  const size_t slash = argument.find('/');
  if (slash == absl::string_view::npos) return argument.empty() || argument == rates.device;
  const absl::string_view vm = argument.substr(0, slash);
  return (vm == rates.vm || vm == absl::StrCat(rates.pid)) &&
         argument.substr(slash + 1) == rates.device;
}

std::string Short(double value) {
  constexpr char kUnits[] = {0, 'k', 'M', 'G', 'T', 'P'};
  if (value < 0) value = 0;
  size_t unit = 0;
  // 999.5 would be shown as 1000.
  while (value >= 999.5 && unit + 1 < sizeof(kUnits)) {
    value /= 1000;
    ++unit;
  }
  const bool has_tenth = value < 9.95 && (unit > 0 || value != static_cast<int>(value));
  std::string text = has_tenth ? absl::StrFormat("%.1f", value) : absl::StrFormat("%.0f", value);
  if (text.size() > 4) return ">999P";
  if (unit > 0) text.push_back(kUnits[unit]);
  return text == "0.0" ? "<0.1" : text;
}

}  // namespace vhost::ctl

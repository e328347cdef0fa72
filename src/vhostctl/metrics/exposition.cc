// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/metrics/exposition.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {
namespace {

// Other processes' strings: what is not UTF-8 would make a scraper refuse the whole.
std::string Escaped(absl::string_view text) {
  // A JSON string has U+FFFD for bytes that are no UTF-8, and \u.... for control characters.
  std::string quoted = control::Quoted(text);
  const std::string plain = quoted.substr(1, quoted.size() - 2);
  // The two formats know \\, \" and \n alone.
  return absl::StrReplaceAll(plain, {{"\\\\", "\\\\"},
                                     {"\\\"", "\\\""},
                                     {"\\n", "\\n"},
                                     {"\\r", " "},
                                     {"\\t", " "},
                                     {"\\b", " "},
                                     {"\\f", " "},
                                     {"\\u", "u"}});
}

std::string Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 9007199254740992.0) {
    return absl::StrFormat("%.0f", value);
  }
  return absl::StrFormat("%.17g", value);
}

}  // namespace

void Exposition::Declare(absl::string_view name, MetricType type, absl::string_view help) {
  families_.push_back({std::string(name), type, std::string(help), {}, {}});
}

void Exposition::Add(absl::string_view name, const Labels& labels, double value) {
  const auto family = std::find_if(families_.begin(), families_.end(),
                                   [&](const Family& row) { return row.name == name; });
  if (family == families_.end()) return;
  std::string text = absl::StrJoin(labels, ",", [](std::string* out, const auto& label) {
    absl::StrAppend(out, label.first, "=\"", Escaped(label.second), "\"");
  });
  const auto [label, is_new] = family->labels.insert(std::move(text));
  if (is_new) family->samples.push_back(absl::StrCat("{", *label, "} ", Number(value)));
}

std::string Exposition::Text(MetricFormat format) const {
  std::string out;
  for (const Family& family : families_) {
    if (family.samples.empty()) continue;
    const bool is_counter = family.type == MetricType::kCounter;
    const std::string sample = absl::StrCat(family.name, is_counter ? "_total" : "");
    // The older format knows nothing of suffixes: the family is called as its samples are.
    const std::string& name = format == MetricFormat::kOpenMetrics ? family.name : sample;
    absl::StrAppend(&out, "# HELP ", name, " ", family.help, "\n# TYPE ", name, " ",
                    is_counter ? "counter" : "gauge", "\n");
    for (const std::string& row : family.samples) absl::StrAppend(&out, sample, row, "\n");
  }
  if (format == MetricFormat::kOpenMetrics) out += "# EOF\n";
  return out;
}

}  // namespace vhost::ctl

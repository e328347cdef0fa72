// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Metrics as Prometheus reads them: families of samples with labels, written in the OpenMetrics
// format or in the older text format, which node_exporter's textfile collector wants.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace vhost::ctl {

using Labels = std::vector<std::pair<std::string, std::string>>;

enum class MetricType { kGauge, kCounter };
enum class MetricFormat { kOpenMetrics, kText };

class Exposition {
 public:
  // Declares a family, for the order and the help of it. The name of a counter has no "_total".
  void Declare(absl::string_view name, MetricType type, absl::string_view help);
  // A sample of a declared family. The first of a set of labels counts: a second would make a
  // scraper refuse everything, and who answers may say the same twice.
  void Add(absl::string_view name, const Labels& labels, double value);
  // Families without samples are left out.
  std::string Text(MetricFormat format) const;

 private:
  struct Family {
    std::string name;
    MetricType type;
    std::string help;
    std::vector<std::string> samples;  // `{labels} value`
    std::set<std::string> labels;      // of those
  };
  std::vector<Family> families_;
};

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What docs/monitoring asks of Prometheus is there to be asked for.
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "src/vhostctl/metrics/device_metrics.h"
#include "vhost/control/protocol.h"

namespace vhost::ctl {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string TextOf(const std::string& name) {
  std::ifstream file(LIBVHOST_DOCS "/monitoring/" + name);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::set<std::string> MetricsIn(const std::string& text) {
  static const std::regex kName("vhost_[a-z_]+");
  std::set<std::string> names;
  for (std::sregex_iterator match(text.begin(), text.end(), kName), end; match != end; ++match) {
    names.insert(match->str());
  }
  return names;
}

TEST(Monitoring, AlertsAndDashboardUseMetricsThatThereAre) {
  const std::vector<std::string> there = MetricNames();
  for (const char* file : {"vhost.rules.yml", "vhost.dashboard.json"}) {
    const std::set<std::string> used = MetricsIn(TextOf(file));
    EXPECT_GE(used.size(), 5u) << file;
    for (const std::string& name : used) EXPECT_THAT(there, Contains(name)) << file;
  }
}

TEST(Monitoring, TheManualListsEveryMetric) {
  std::ifstream file(LIBVHOST_DOCS "/metrics.md");
  const std::string manual((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
  for (const std::string& name : MetricNames()) {
    EXPECT_THAT(manual, HasSubstr("| `" + name + "` |"));
  }
}

TEST(Monitoring, TheDashboardHasAPanelForWhatGoesWrong) {
  const std::string text = TextOf("vhost.dashboard.json");
  const auto panels = control::Member(text, "panels");
  ASSERT_TRUE(panels.ok()) << panels.status();
  const auto list = control::Elements(*panels);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_THAT(*list, SizeIs(::testing::Ge(8)));
  for (const char* wrong :
       {"vhost_device_stalled_queues", "vhost_device_fallback", "vhost_device_needs_reset",
        "vhost_vring_errors_total", "vhost_vring_drops_total"}) {
    EXPECT_THAT(text, HasSubstr(wrong));
  }
}

}  // namespace
}  // namespace vhost::ctl

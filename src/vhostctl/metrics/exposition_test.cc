// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What is written is read again by a parser that takes nothing but what the formats allow.
#include "src/vhostctl/metrics/exposition.h"

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "src/vhostctl/metrics/device_metrics.h"
#include "vhost/control/sample_report.h"

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Fails on whatever a scraper would refuse: a sample outside its family, a family twice, a label
// set twice, a name or value that is none, no EOF.
void CheckStrictly(const std::string& text, MetricFormat format) {
  static const std::regex kSample(
      R"re(([a-z_][a-z0-9_]*)\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (-?[0-9.e+-]+))re");
  ASSERT_EQ(text.back(), '\n');
  std::vector<std::string> lines = absl::StrSplit(text.substr(0, text.size() - 1), '\n');
  if (format == MetricFormat::kOpenMetrics) {
    ASSERT_EQ(lines.back(), "# EOF");
    lines.pop_back();
  }
  std::string family, expected;
  std::set<std::string> families, samples;
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words[0] == "#") {
      ASSERT_EQ(words.size(), 4u) << line;
      if (words[1] == "HELP") {
        family = words[2];
        EXPECT_TRUE(families.insert(family).second) << "twice: " << line;
        continue;
      }
      ASSERT_EQ(words[1], "TYPE") << line;
      ASSERT_EQ(words[2], family) << line;
      const bool adds = words[3] == "counter" && format == MetricFormat::kOpenMetrics;
      expected = adds ? absl::StrCat(family, "_total") : family;
      if (words[3] == "counter") {
        EXPECT_THAT(expected, ::testing::EndsWith("_total"));
      }
      continue;
    }
    std::smatch match;
    ASSERT_TRUE(std::regex_match(line, match, kSample)) << line;
    EXPECT_EQ(match[1], expected) << line;
    EXPECT_TRUE(samples.insert(absl::StrCat(match[1].str(), match[2].str())).second) << line;
  }
}

Gathered Sample() {
  DeviceReport net = control::SampleNet();
  DeviceReport odd = control::SampleVsock();
  odd.name = "a\"b\\c\n\x01\xff";  // nobody may name it so, but who answers may say so
  return {.processes = {{.socket = "/run/web.sock",
                         .process = {.vm = "web", .pid = 11},
                         .devices = {net, odd}}},
          .silent = {"/run/db.sock"}};
}

TEST(MetricsTest, BothFormatsAreStrictlyRight) {
  const Exposition exposition = MetricsOf(
      Sample(), {{.pid = 100,
                  .vm = "peer",
                  .devices = {{.fd = 21, .node = "/dev/vhost-net", .type = "net", .vrings = 2}},
                  .workers = {{.tid = 104, .cpu_time_ns = 1'500'000'000}}}});
  const std::string open = exposition.Text(MetricFormat::kOpenMetrics);
  const std::string plain = exposition.Text(MetricFormat::kText);
  CheckStrictly(open, MetricFormat::kOpenMetrics);
  CheckStrictly(plain, MetricFormat::kText);
  EXPECT_THAT(open, HasSubstr("# TYPE vhost_vring_kicks counter\n"));
  EXPECT_THAT(plain, HasSubstr("# TYPE vhost_vring_kicks_total counter\n"));
  EXPECT_THAT(plain, Not(HasSubstr("EOF")));
}

TEST(MetricsTest, SaysWhatTheReportsSay) {
  const std::string text = MetricsOf(Sample(), {}).Text(MetricFormat::kOpenMetrics);
  EXPECT_THAT(text, HasSubstr("vhost_up{socket=\"/run/web.sock\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("vhost_up{socket=\"/run/db.sock\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vhost_vring_in_flight{vm=\"web\",pid=\"11\",device=\"net0\","
                              "queue=\"0\",role=\"rx0\"} 10\n"));
  EXPECT_THAT(text,
              HasSubstr("vhost_device_stalls_total{vm=\"web\",pid=\"11\",device=\"net0\"} 3\n"));
  EXPECT_THAT(text,
              HasSubstr("vhost_device_needs_reset{vm=\"web\",pid=\"11\",device=\"net0\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vhost_worker_cpu_seconds_total{"));
}

TEST(MetricsTest, TheManualListsEachOfThem) {
  std::ifstream file(LIBVHOST_DOCS "/metrics.md");
  const std::string manual((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
  const std::string text = MetricsOf(Sample(), {}).Text(MetricFormat::kText);
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "#") {
      EXPECT_THAT(manual, HasSubstr(absl::StrCat("`", words[2], "`")));
    }
  }
}

TEST(MetricsTest, WhatIsSaidTwiceIsWrittenOnce) {
  Gathered twice = Sample();
  twice.processes[0].devices.push_back(twice.processes[0].devices[0]);
  twice.processes[0].devices.back().resets += 5;
  twice.processes.push_back(twice.processes[0]);
  const std::string text = MetricsOf(twice, {}).Text(MetricFormat::kOpenMetrics);
  CheckStrictly(text, MetricFormat::kOpenMetrics);
  EXPECT_EQ(text, MetricsOf(Sample(), {}).Text(MetricFormat::kOpenMetrics));
}

TEST(MetricsTest, OfNobodyAreNone) {
  EXPECT_EQ(MetricsOf({}, {}).Text(MetricFormat::kOpenMetrics), "# EOF\n");
  EXPECT_EQ(MetricsOf({}, {}).Text(MetricFormat::kText), "");
}

}  // namespace
}  // namespace vhost::ctl

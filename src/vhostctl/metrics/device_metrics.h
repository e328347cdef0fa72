// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which metrics there are, and how they come out of reports. docs/metrics.md lists them.
#pragma once

#include <string>
#include <vector>

#include "src/vhostctl/foreign/process.h"
#include "src/vhostctl/gather.h"
#include "src/vhostctl/metrics/exposition.h"

namespace vhost::ctl {

// Of all samples that there may be: "vhost_up", "vhost_vring_kicks_total", ...
std::vector<std::string> MetricNames();

Exposition MetricsOf(const Gathered& gathered, const std::vector<ForeignProcess>& foreign);

}  // namespace vhost::ctl

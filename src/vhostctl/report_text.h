// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A device report as text for people and for grep: a line a fact, every field of the report, and
// what is not known shown as `unknown: REASON`.
#pragma once

#include <string>

#include "vhost/control/protocol.h"
#include "vhost/report.h"

namespace vhost::ctl {

std::string ReportText(const control::ProcessInfo& process, const DeviceReport& report);

// "1.5 GiB" only where that is exact; otherwise bytes.
std::string SizeText(uint64_t bytes);

}  // namespace vhost::ctl

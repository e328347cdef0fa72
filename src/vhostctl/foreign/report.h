// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How processes without a control socket are shown.
#pragma once

#include <string>
#include <vector>

#include "src/vhostctl/foreign/process.h"

namespace vhost::ctl {

// A row of `list` a device, with "?" for what is not to be known.
std::vector<std::vector<std::string>> RowsOf(const ForeignProcess& process);
// In the shape of a control socket's answer to `list`: {"process": ..., "devices": [...]}. Members
// that are not to be known are null, and "unknown" has the reasons.
std::string JsonOf(const ForeignProcess& process);
std::string JsonOf(const ForeignProcess& process, const ForeignDevice& device);
std::string ProcessJson(const ForeignProcess& process);
// `show PID/fdN`.
std::string TextOf(const ForeignProcess& process, const ForeignDevice& device);

}  // namespace vhost::ctl

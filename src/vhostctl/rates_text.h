// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How rates are shown, by `stats` and `top`.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "src/vhostctl/rates.h"

namespace vhost::ctl {

// A JSON object, of a queue of `rates`.
std::string JsonOf(const QueueRates& rates);

// Whether a command line that says `argument` ([VM/]DEVICE, or nothing: all) means that queue.
bool IsMeant(absl::string_view argument, const QueueRates& rates);

// In at most 5 characters: "0", "0.3", "842", "1.2k", "120k", "9.9M".
std::string Short(double value);

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vhost::ctl {

// Writes a file that others may read at any time: it is whole whenever it is there, and what was
// there is replaced only when all is written. `mode` whatever the umask is.
absl::Status WriteWhole(const std::string& path, absl::string_view text, mode_t mode);

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Small files of /proc and /sys, read as they are. Nothing fails loudly: what cannot be read is not
// there.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vhost::ctl {

// Up to 8 MiB. `error`: the errno, if the caller wants to say why.
std::optional<std::string> ReadText(const std::string& path, int* error = nullptr);
std::optional<long> ReadNumber(const std::string& path);
// The names in a folder without "." and "..", sorted; none if it cannot be read.
std::vector<std::string> NamesIn(const std::string& folder, int* error = nullptr);
std::optional<std::string> ReadLink(const std::string& path, int* error = nullptr);
// The value behind "KEY:" in a file of such lines (/proc/PID/status, fdinfo); empty: none.
std::string StatusField(absl::string_view text, absl::string_view key);

// By name, or the number where there is none.
std::string UserName(uid_t uid);
std::string GroupName(gid_t gid);

}  // namespace vhost::ctl

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/device/mac_address.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace vhost {

std::string Describe(const MacAddress& mac) {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                         mac[5]);
}

absl::StatusOr<MacAddress> ParseMacAddress(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  MacAddress mac{};
  bool good = parts.size() == mac.size();
  for (size_t i = 0; good && i < mac.size(); ++i) {
    uint32_t byte = 0;
    good = parts[i].size() == 2 && absl::ascii_isxdigit(parts[i][0]) &&
           absl::ascii_isxdigit(parts[i][1]) && absl::SimpleHexAtoi(parts[i], &byte);
    mac[i] = static_cast<uint8_t>(byte);
  }
  if (good) return mac;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no MAC address of the form 52:54:00:12:34:56"));
}

}  // namespace vhost

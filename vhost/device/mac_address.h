// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vhost {

using MacAddress = std::array<uint8_t, 6>;

// "52:54:00:12:34:56".
std::string Describe(const MacAddress& mac);
// Six bytes of two hexadecimal digits, separated by colons; INVALID_ARGUMENT otherwise.
absl::StatusOr<MacAddress> ParseMacAddress(absl::string_view text);

// Of a group (broadcast included), and thus no interface's own.
constexpr bool IsMulticast(const MacAddress& mac) { return (mac[0] & 1) != 0; }
// One that an interface can have: neither of a group nor all zeros.
constexpr bool IsUsable(const MacAddress& mac) { return !IsMulticast(mac) && mac != MacAddress{}; }

}  // namespace vhost

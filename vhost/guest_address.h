// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"

namespace vhost {

// An address as the guest sees it (guest-physical). It is neither a number nor a pointer: only a
// MemoryTable turns it into one, and always together with a length.
enum class GuestAddress : uint64_t {};

constexpr uint64_t Value(GuestAddress address) { return static_cast<uint64_t>(address); }

// The address `bytes` further on, modulo 2^64: whoever takes an offset from a guest checks the
// range with MemoryTable, which refuses one that wraps.
constexpr GuestAddress operator+(GuestAddress address, uint64_t bytes) {
  return GuestAddress{Value(address) + bytes};
}

inline std::string Describe(GuestAddress address) { return absl::StrFormat("%#x", Value(address)); }

}  // namespace vhost

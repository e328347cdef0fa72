// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The command line of vhost-backend. options.cc has the manual.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace vhost_backend {

enum class DeviceType : uint8_t { kNet, kVsock };

struct Options {
  DeviceType type = DeviceType::kNet;
  // Where front ends connect; or a socket that was handed in.
  std::string socket;
  std::optional<int> fd;
  std::optional<gid_t> group;  // whose members may connect besides the owner
  // net
  std::string tap;
  std::vector<int> tap_fds;
  int queues = 1;  // pairs
  // vsock
  uint64_t guest_cid = 0;
  std::string uds;
  // both
  uint32_t poll_us = 100;
  bool packed = false;
  bool sandbox = true;
  bool verbose = false;
};

// To be printed, and nothing else to be done.
struct Text {
  std::string text;
};

// INVALID_ARGUMENT says what is wrong with which option.
absl::StatusOr<std::variant<Options, Text>> ParseOptions(std::span<const char* const> arguments);

}  // namespace vhost_backend

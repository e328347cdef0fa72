// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The calls that a fake kernel was asked for, in order, with arguments in the words of the field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace fakes {

struct LoggedCall {
  std::string name;       // "VHOST_SET_VRING_NUM", "open"
  std::string arguments;  // "index=1 num=256", "/dev/vhost-net"
  long result = 0;        // as the kernel returned it: minus errno for a failure
  int fd = -1;            // of an ioctl, read or write

  // "VHOST_SET_VRING_NUM(index=1 num=256)", with " = -16 EBUSY" behind it for a failure.
  std::string Text() const;
};

// The name and decoded arguments of an ioctl, before it is made. A number that is not in
// kernel-abi/ shows as "ioctl 0x...".
LoggedCall DecodeIoctl(int fd, unsigned long request, uintptr_t argument);

// The names of those calls that begin with `prefix` ("VHOST_"), in order.
std::vector<std::string> Names(const std::vector<LoggedCall>& calls, absl::string_view prefix);

}  // namespace fakes

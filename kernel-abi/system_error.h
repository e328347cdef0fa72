// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kernel_abi {

// What is known of a system call that failed. It is the text of a Status and also its payload, so
// that a caller can tell EACCES from ENOENT without parsing, and survives added context.
struct SystemError {
  int error = 0;          // errno, positive
  std::string subject;    // what it was asked of: "/dev/vhost-net", "tap0"
  std::string call;       // "VHOST_SET_VRING_NUM", "open"
  std::string arguments;  // decoded: "index=1 num=300"; may be empty
};

// `SUBJECT: CALL(ARGUMENTS): EINVAL (Invalid argument)`, with `advice` behind it where there is
// something that a person can do ("; add the user to group kvm, or pass an fd").
absl::Status MakeSystemError(const SystemError& error, absl::string_view advice = {});

// The payload of `status`, if a system call's failure is behind it.
std::optional<SystemError> GetSystemError(const absl::Status& status);

// Its errno, or 0 where no system call's failure is behind `status`.
int GetErrno(const absl::Status& status);

// `CONTEXT: old message`; code and payloads are kept. OK stays OK.
absl::Status AddContext(const absl::Status& status, absl::string_view context);

// `old message; ADVICE`; code and payloads are kept.
absl::Status AddAdvice(const absl::Status& status, absl::string_view advice);

// "EINVAL (Invalid argument)".
std::string ErrnoText(int error);

}  // namespace kernel_abi

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/request.h"

#include "absl/strings/str_format.h"

namespace kernel_abi {

std::string Describe(uint64_t value) { return absl::StrFormat("%#x", value); }

}  // namespace kernel_abi

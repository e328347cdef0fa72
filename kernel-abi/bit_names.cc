// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/bit_names.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kernel_abi {

std::string BitNames(uint64_t word, std::span<const BitName> names, const char* divider,
                     unsigned first_bit) {
  std::string text;
  for (unsigned i = 0; i < 64; ++i) {
    if ((word >> i & 1) == 0) continue;
    const unsigned bit = first_bit + i;
    const auto found = std::find_if(names.begin(), names.end(),
                                    [bit](const BitName& name) { return name.bit == bit; });
    absl::StrAppend(&text, text.empty() ? "" : divider,
                    found != names.end() ? std::string(found->name) : absl::StrCat("bit", bit));
  }
  return text;
}

std::string DescribeBits(uint64_t word, std::span<const BitName> names, unsigned first_bit) {
  if (word == 0) return "0";
  return absl::StrFormat("%#x (%s)", word, BitNames(word, names, " ", first_bit));
}

}  // namespace kernel_abi

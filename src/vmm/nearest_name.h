// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vmm {

// Of `names`, the one that `word` most likely was to be: with the fewest letters wrong, missing,
// too many or changed with their neighbour. Empty if none is near enough to be worth saying.
std::string NearestName(absl::string_view word, const std::vector<std::string>& names);

}  // namespace vmm

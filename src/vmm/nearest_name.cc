// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/nearest_name.h"

#include <algorithm>
#include <cstddef>

namespace vmm {
namespace {

// Words beyond this are nobody's slip of the finger, and would cost a table of their square.
constexpr size_t kLongest = 64;

// The optimal string alignment distance.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

}  // namespace

std::string NearestName(absl::string_view word, const std::vector<std::string>& names) {
  if (word.empty() || word.size() > kLongest) return "";
  std::string nearest;
  size_t least = word.size() / 3 + 1;  // more wrong than this is another word
  for (const std::string& name : names) {
    if (name.size() > kLongest) continue;
    const size_t distance = Distance(word, name);
    if (distance > least || (distance == least && !nearest.empty())) continue;
    least = distance;
    nearest = name;
  }
  return nearest;
}

}  // namespace vmm

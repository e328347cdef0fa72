// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace vhost::bench {

// What the benches are told; each begins with its own defaults.
struct BenchOptions {
  int rounds = 9;
  int mib = 0;
  bool check = false;  // to fail where a goal is missed
  std::string only;    // a part of it
};

// Reads those options that `usage` names. An exit code if there is nothing to run.
inline std::optional<int> ReadOptions(int argc, char** argv, absl::string_view usage,
                                      BenchOptions& options) {
  const auto say = [usage](FILE* to) {
    std::fprintf(to, "usage: %.*s\n", static_cast<int>(usage.size()), usage.data());
  };
  for (int i = 1; i < argc; ++i) {
    const absl::string_view name = argv[i];
    const absl::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--help") {
      say(stdout);
      return 0;
    }
    bool good = absl::StartsWith(name, "--") && absl::StrContains(usage, name);
    if (good && name == "--check") {
      options.check = true;
      continue;
    }
    if (name == "--only") {
      options.only = std::string(value);
      good = good && !value.empty();
    } else {
      int& number = name == "--mib" ? options.mib : options.rounds;
      good = good && (name == "--mib" || name == "--rounds") && absl::SimpleAtoi(value, &number) &&
             number > 0;
    }
    if (!good) {
      say(stderr);
      return 2;
    }
    ++i;
  }
  return std::nullopt;
}

}  // namespace vhost::bench

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace vhost::bench {

inline double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

struct Compared {
  double a = 0;  // medians
  double b = 0;
  double ratio = 0;  // of b to a, median of the pairs
  double ratio_low = 0;
  double ratio_high = 0;  // quartiles
};

// Measures `a` and `b` (their results: a cost, say ns) in turns, each round in the other order.
inline Compared InPairs(int rounds, const std::function<double()>& a,
                        const std::function<double()>& b) {
  std::vector<double> as;
  std::vector<double> bs;
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    double cost_a;
    double cost_b;
    if (round % 2 == 0) {
      cost_a = a();
      cost_b = b();
    } else {
      cost_b = b();
      cost_a = a();
    }
    as.push_back(cost_a);
    bs.push_back(cost_b);
    ratios.push_back(cost_b / cost_a);
  }
  return {Quantile(as, 0.5), Quantile(bs, 0.5), Quantile(ratios, 0.5), Quantile(ratios, 0.25),
          Quantile(ratios, 0.75)};
}

// One line; false if the goal is missed. `wanted` is a bound for what `value` is.
inline bool Tell(const std::string& what, const Compared& compared, const char* unit, double value,
                 double bound, bool at_least) {
  const bool met = at_least ? value >= bound : value <= bound;
  std::printf("%-44s %9.1f %9.1f %-3s  x%.3f (%.3f-%.3f)  %.3f, goal %s %.2f: %s\n", what.c_str(),
              compared.a, compared.b, unit, compared.ratio, compared.ratio_low, compared.ratio_high,
              value, at_least ? ">=" : "<=", bound, met ? "met" : "MISSED");
  std::fflush(stdout);
  return met;
}

}  // namespace vhost::bench

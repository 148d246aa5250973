// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/fir_resample.h"
#include "torch/checks.h"

namespace ssf::torch_side {

// Checks the filter of a resampling and the sizes that it halves, and returns the sum of its taps.
inline double require_filter(const Tensor& x, const std::vector<double>& taps, const std::string& direction) {
  check(direction == "up" || (x.size(2) % 2 == 0 && x.size(3) % 2 == 0), "x is ", Shown{x},
        "; only even heights and widths can be halved");
  check(taps.size() >= 2 && taps.size() <= cpu::kMaxTaps, "taps has ", taps.size(), " values; it must have 2 to ",
        cpu::kMaxTaps);
  const double sum = std::accumulate(taps.begin(), taps.end(), 0.0);
  check(std::isfinite(sum) && sum != 0, "taps has the sum ", sum, "; it must be finite and other than 0");
  return sum;
}

}  // namespace ssf::torch_side

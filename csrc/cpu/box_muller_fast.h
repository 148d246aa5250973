// SPDX-License-Identifier: Apache-2.0
// Box-Muller on two Philox words, the fast form: core/box_muller.h without the parts that carry what rounding lost.
//
// u0 is rounded to float32, in (0, 1]. With r = sqrt(-2 ln u0) the normals are within r 2^-22 of the contract's where
// r > 1; below the error grows as 2^-22 / r, to 2^-10 at most, as r goes to 0. The same bits on every machine.
#pragma once

#include "core/box_muller.h"

namespace ssf::cpu {

SSF_HD float minus_two_log_fast(uint32_t word) {
  const auto [power, f] = parts_of(static_cast<float>(static_cast<int32_t>(word >> 7 | 1)));
  const float square = f * f;
  const float log = f + fused(-0.5f, square, square * f * log_series(f));
  return -2.0f * fused(static_cast<float>(power - 25), 0.693147181f, log);
}

SSF_HD NormalPair box_muller_fast(uint32_t radius_word, uint32_t angle_word) {
  const float radius = std::sqrt(minus_two_log_fast(radius_word));
  const auto [quarter, count] = angle_of(angle_word);
  const float x = count * kAngleUnit, z = x * x;
  const float c = fused(z * z, cosine_series(z), fused(-0.5f, z, 1.0f)), s = fused(z * x, sine_series(z), x);
  return turned(radius * c, radius * s, quarter);
}

}  // namespace ssf::cpu

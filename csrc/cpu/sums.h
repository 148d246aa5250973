// SPDX-License-Identifier: Apache-2.0
// Sums over a block in a fixed order: within lanes in float, as one vector, then over the lanes in double.
#pragma once

#include <cstdint>

#include "core/box_muller.h"

namespace ssf::cpu {

// a . b over `count` elements; the arrays are padded with zeros to a multiple of the lanes.
template <int kSize>
SSF_HD double dot(const float* a, const float* b) {
  constexpr int kLanes = 32;
  static_assert(kSize % kLanes == 0);
  float lanes[kLanes] = {};
  for (int i = 0; i < kSize; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = fused(a[i + lane], b[i + lane], lanes[lane]);
  double sums[4] = {};
  for (int i = 0; i < kLanes; i += 4)
    for (int k = 0; k < 4; ++k) sums[k] += lanes[i + k];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace ssf::cpu

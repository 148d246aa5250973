// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace ssf::cpu {

constexpr int kMaxTaps = 12;

enum class Scalar { kFloat, kBFloat16, kHalf, kDouble };

// Resampling by two of (planes, height, width, inner) along height and width: NCHW has planes = N C and inner = 1,
// channels_last has planes = N and inner = C. Along each axis, with taps h of that axis and o = offset,
//   up:   y[n] = sum_i x[i] h[n + o - 2 i], twice as long;      down: y[m] = sum_j x[j] h[2 m + o - j], half as long.
struct FirResample {
  int64_t planes, height, width, inner;
  bool up;
  int taps;
  int offset;  // in [0, taps)
  double column_taps[kMaxTaps], row_taps[kMaxTaps];

  int64_t out_height() const { return up ? 2 * height : height / 2; }
  int64_t out_width() const { return up ? 2 * width : width / 2; }
};

// Computes output rows [begin, end), numbered over all planes; `x` and `out` are the first elements of the tensors, of
// type `scalar`. Sums are float, or double for double tensors. Ranges are independent of each other, so that threads
// may share a tensor.
void fir_resample(const FirResample& op, Scalar scalar, const void* x, void* out, int64_t begin, int64_t end);

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cpu/element.h"

namespace ssf::cpu {

// h = (x + shift + residual) * scale, y = silu(group_norm(h)); all images are NCHW or all are channels_last.
template <class T>
struct GroupNormSilu {
  const T* x;
  const T* residual;     // or null
  const float* shift;    // or null
  int64_t shift_stride;  // between the shifts of samples: channels, or 0
  const float* weight;
  const float* bias;
  T* y;
  T* joined;          // h, if there is a residual
  float* statistics;  // (batch, groups, 2): mean and reciprocal standard deviation of h
  int64_t channels, pixels, groups;
  bool channels_last;
  float eps, scale;
  bool silu;
};

// Computes groups [first, last) of one sample. The results do not depend on the range.
void group_norm_silu(const GroupNormSilu<float>& op, int64_t sample, int64_t first, int64_t last);
void group_norm_silu(const GroupNormSilu<BFloat16>& op, int64_t sample, int64_t first, int64_t last);
void group_norm_silu(const GroupNormSilu<Half>& op, int64_t sample, int64_t first, int64_t last);

}  // namespace ssf::cpu

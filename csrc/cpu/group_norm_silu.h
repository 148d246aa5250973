// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cpu/element.h"

namespace ssf::cpu {

// h = (x + shift + residual) * scale, y = silu(group_norm(h)); the images are NCHW or channels_last alike.
template <class T>
struct GroupNormSilu {
  const T* x;
  const T* residual;     // or null
  const float* shift;    // or null
  int64_t shift_stride;  // from one sample's shift to the next: channels, or 0
  const float* weight;
  const float* bias;
  T* y;
  T* joined;          // h, where there is a residual
  float* statistics;  // (batch, groups, 2): mean and reciprocal deviation of h
  int64_t channels, pixels, groups;
  bool channels_last;
  float eps, scale;
  bool silu;
};

// Groups [first, last) of one sample. The results do not depend on the division into groups.
void group_norm_silu(const GroupNormSilu<float>& op, int64_t sample, int64_t first, int64_t last);
void group_norm_silu(const GroupNormSilu<BFloat16>& op, int64_t sample, int64_t first, int64_t last);
void group_norm_silu(const GroupNormSilu<Half>& op, int64_t sample, int64_t first, int64_t last);

}  // namespace ssf::cpu

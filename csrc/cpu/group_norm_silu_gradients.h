// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cpu/element.h"

namespace ssf::cpu {

// Derivatives of group_norm_silu without its filter; the formulas are in scoresde_fast/ops/group_norm_silu.py.
template <class T>
struct GroupNormGradient {
  const T* source;       // h if it was stored, else x, with h = (x + shift) * scale
  const T* change;       // the gradient of y, or the tangent of h
  const T* grad_h;       // or null
  const float* shift;    // or null
  int64_t shift_stride;  // between the shifts of samples: channels, or 0
  const float* statistics;
  const float* weight;
  const float* bias;
  T* out;              // the gradient of x, or the tangent of y
  float* grad_weight;  // (batch, channels), not yet summed over the batch; these three are for the gradient only
  float* grad_bias;
  float* grad_shift;
  int64_t channels, pixels, groups;
  bool channels_last;
  float scale, out_scale;
  bool silu;
};

// Computes groups [first, last) of one sample: the gradient of x and the sums, or the tangent of y.
#define SSF_GRADIENTS(T)                                                                                      \
  void group_norm_silu_backward(const GroupNormGradient<T>& op, int64_t sample, int64_t first, int64_t last); \
  void group_norm_silu_tangent(const GroupNormGradient<T>& op, int64_t sample, int64_t first, int64_t last);
SSF_GRADIENTS(float)
SSF_GRADIENTS(BFloat16)
SSF_GRADIENTS(Half)
#undef SSF_GRADIENTS

}  // namespace ssf::cpu

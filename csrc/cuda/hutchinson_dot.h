// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

struct HutchinsonDot {
  double *divergence, *parts;  // (samples); (samples, hutchinson_dot_parts(elements)), null where that is 1
  const void* tangent;
  Type tangent_type;
  int64_t samples, elements;
  const float* coefficients;  // see DotColumns
  RowIndex index;
  Field field;
};

// The number of parts of a sample's sum; it depends only on the sample's size, so that the order of addition does too.
int64_t hutchinson_dot_parts(int64_t elements);

// divergence += constant + factor (probe . tangent); see `scoresde_fast/ops/hutchinson_dot.py`.
int hutchinson_dot(const HutchinsonDot& arguments, void* stream);

}  // namespace ssf::cuda

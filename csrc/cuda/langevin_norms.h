// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

struct LangevinNorms {
  const void* output;
  Type output_type;
  float *norms, *parts;  // (samples, 2); (samples, langevin_norms_parts(elements), 2), null where that is 1
  int64_t samples, elements;
  Table table;
  Field field;
};

// How many pieces a sample is summed in: a function of its size alone, so that its sums are too.
int64_t langevin_norms_parts(int64_t elements);

// Sums of squares of the score and of the noise; `scoresde_fast/ops/langevin_norms.py` says what it computes.
int langevin_norms(const LangevinNorms& arguments, void* stream);

}  // namespace ssf::cuda

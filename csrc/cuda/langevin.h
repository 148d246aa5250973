// SPDX-License-Identifier: Apache-2.0
// The two halves of the Langevin corrector, see `scoresde_fast/ops/langevin.py`.
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

// The number of parts of a sample's sums; it depends only on the sample's size, so that the order of addition does too.
int64_t langevin_norms_parts(int64_t elements);

// Computes the sums of squares of the score and of the noise.
int langevin_norms(const LangevinNorms& arguments, void* stream);

struct LangevinStep {
  float* state;
  const void* output;
  Type output_type;
  const float* norms;  // (samples, 2)
  float* mean;         // buffer for two values, for one step size per batch; null for one per sample
  int64_t samples, elements;
  Table table;
  Field field;
};

// Takes the step, in place.
int langevin_step(const LangevinStep& arguments, void* stream);

}  // namespace ssf::cuda

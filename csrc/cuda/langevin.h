// SPDX-License-Identifier: Apache-2.0
// The Langevin corrector; `scoresde_fast/ops/langevin.py` says what its two halves compute.
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

// The number of parts of a sample's sums: a function of its size alone, so that the sums are too.
int64_t langevin_norms_parts(int64_t elements);

// Sums of squares of the score and of the noise.
int langevin_norms(const LangevinNorms& arguments, void* stream);

struct LangevinStep {
  float* state;
  const void* output;
  Type output_type;
  const float* norms;  // (samples, 2)
  float* mean;         // room for two numbers, for a step size of the batch; null for one of each sample
  int64_t samples, elements;
  Table table;
  Field field;
};

// The step, in place.
int langevin_step(const LangevinStep& arguments, void* stream);

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

struct LangevinStep {
  float* state;
  const void* output;
  Type output_type;
  const float* norms;  // (samples, 2)
  float* mean;         // room for two numbers where the step size is the batch's, null where it is the sample's
  int64_t samples, elements;
  Table table;
  Field field;
};

// The Langevin corrector, in place; `scoresde_fast/ops/langevin_step.py` says what it computes.
int langevin_step(const LangevinStep& arguments, void* stream);

}  // namespace ssf::cuda

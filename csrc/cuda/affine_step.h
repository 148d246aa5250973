// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// One row of a table on single states, in place; `scoresde_fast/ops/affine_step.py` says what it computes.
int affine_step(const Step& step, void* stream);

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// Runs a row of a table on single states, in place; see `scoresde_fast/ops/affine_step.py`.
int affine_step(const Step& step, void* stream);

}  // namespace ssf::cuda

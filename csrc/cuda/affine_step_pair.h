// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// One row of a table on pairs, in place; `scoresde_fast/ops/affine_step.py` says what it computes. A sample's
// first elements / 2 numbers are x, the others v; the network's output has elements / 2.
int affine_step_pair(const Step& step, void* stream);

}  // namespace ssf::cuda

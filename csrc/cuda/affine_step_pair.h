// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// Runs a row of a table on pairs, in place; see `scoresde_fast/ops/affine_step.py`. The first elements / 2 values of a
// sample are x, the others v; the network's output has elements / 2 values.
int affine_step_pair(const Step& step, void* stream);

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// Generates the signs of draw `field.draw` for each sample; `out` is (samples, elements).
int rademacher(float* out, int64_t samples, int64_t elements, const Field& field, void* stream);

}  // namespace ssf::cuda

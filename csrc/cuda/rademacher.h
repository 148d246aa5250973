// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/step.h"

namespace ssf::cuda {

// The field `field.draw` of signs of each sample; `out` is (samples, elements).
int rademacher(float* out, int64_t samples, int64_t elements, const Field& field, void* stream);

}  // namespace ssf::cuda

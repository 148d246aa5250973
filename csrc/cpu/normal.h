// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/noise.h"

namespace ssf::cpu {

// Computes elements [begin, end) of one sample's normals; `out` is the sample's first element. `begin` is a multiple of
// 4. Ranges are independent of each other, so that threads may share a sample.
void normal(float* out, int64_t begin, int64_t end, const Field& field);

}  // namespace ssf::cpu

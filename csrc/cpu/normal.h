// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/noise.h"

namespace ssf::cpu {

// Elements [begin, end) of one sample's normal field; `out` is the field's first element. `begin` is a multiple of 4.
// Ranges are independent of each other, so that threads may share a field.
void normal(float* out, int64_t begin, int64_t end, const Field& field);

}  // namespace ssf::cpu

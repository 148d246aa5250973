// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/noise.h"

namespace ssf::cpu {

// Computes elements [begin, end) of one sample's signs, as in `normal`.
void rademacher(float* out, int64_t begin, int64_t end, const Field& field);

}  // namespace ssf::cpu

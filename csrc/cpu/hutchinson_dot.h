// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/network_dtype.h"
#include "cpu/noise.h"

namespace ssf::cpu {

// eps . tangent over elements [begin, end) of the sample whose first element is `base`; `begin` is a multiple of 4.
double hutchinson_dot(const void* tangent, Dtype dtype, int64_t base, const Field& field, bool signs, int64_t begin,
                      int64_t end);

}  // namespace ssf::cpu

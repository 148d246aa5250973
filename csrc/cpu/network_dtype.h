// SPDX-License-Identifier: Apache-2.0
// The number types that a network's output may have, and reading them as float.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "cpu/element.h"

namespace ssf::cpu {

enum class Dtype { float32, bfloat16, float16 };

template <class Element>
SSF_HD void read_as(float* out, const Element* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = widen(from[i]);
}

// `count` numbers from element `first` on.
SSF_HD void read(float* out, const void* from, Dtype dtype, int64_t first, int64_t count) {
  if (dtype == Dtype::float32)
    read_as(out, static_cast<const float*>(from) + first, count);
  else if (dtype == Dtype::bfloat16)
    read_as(out, static_cast<const BFloat16*>(from) + first, count);
  else
    read_as(out, static_cast<const Half*>(from) + first, count);
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
// The dtypes of a network's output, and their conversion to float.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "cpu/element.h"

namespace ssf::cpu {

enum class Dtype { float32, bfloat16, float16 };

template <class Element>
SSF_HD const float* widened(float* buffer, const Element* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) buffer[i] = widen(from[i]);
  return buffer;
}

// Returns `count` values from element `first` on: a pointer to them, or to `buffer` after conversion.
SSF_HD const float* as_float(float* buffer, const void* from, Dtype dtype, int64_t first, int64_t count) {
  if (dtype == Dtype::float32) return static_cast<const float*>(from) + first;
  if (dtype == Dtype::bfloat16) return widened(buffer, static_cast<const BFloat16*>(from) + first, count);
  return widened(buffer, static_cast<const Half*>(from) + first, count);
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
// The number types that a network's output may have, and reading them as float.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/box_muller.h"

namespace ssf::cpu {

enum class Dtype { float32, bfloat16, float16 };

SSF_HD float from_bfloat16(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }

// By exact arithmetic: the shifted bits are 2^-112 times the number, subnormals included; infinities and NaN have their
// own exponent.
SSF_HD float from_float16(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7FFF) << 13;
  const float scaled = bits_float(magnitude) * 0x1p112f;
  const float special = bits_float(magnitude | 0x7F800000);
  const float value = (bits & 0x7C00) == 0x7C00 ? special : scaled;
  return bits_float(float_bits(value) | static_cast<uint32_t>(bits & 0x8000) << 16);
}

// `count` numbers from element `first` on.
SSF_HD void read(float* out, const void* from, Dtype dtype, int64_t first, int64_t count) {
  const auto* half = static_cast<const uint16_t*>(from) + first;
  if (dtype == Dtype::float32)
    std::memcpy(out, static_cast<const float*>(from) + first, count * sizeof(float));
  else if (dtype == Dtype::bfloat16)
    for (int64_t i = 0; i < count; ++i) out[i] = from_bfloat16(half[i]);
  else
    for (int64_t i = 0; i < count; ++i) out[i] = from_float16(half[i]);
}

}  // namespace ssf::cpu

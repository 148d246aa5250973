// SPDX-License-Identifier: Apache-2.0
// Storage types of a network's tensors, and conversions by bit operations, which compilers can vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace ssf::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(BFloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

inline float widen(Half value) {
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  // The product corrects the exponent's bias, for subnormal numbers too.
  return std::bit_cast<float>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f) | special | sign);
}

inline void narrow(float value, float& out) { out = value; }

// Rounds to nearest, ties to even; NaN stays NaN.
inline void narrow(float value, BFloat16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  out.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

inline void narrow(float value, Half& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  // Subnormal numbers have the unit 2^-24, which is one ulp of 1/2 in float.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x477ff000 ? 0x7c00 : result;
  result = magnitude > 0x7f800000 ? 0x7e00 : result;
  out.bits = static_cast<uint16_t>(result | (bits >> 16 & 0x8000));
}

}  // namespace ssf::cpu

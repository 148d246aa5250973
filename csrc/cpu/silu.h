// SPDX-License-Identifier: Apache-2.0
// SiLU without library calls, so that loops over it are vectorised.
#pragma once

#include <bit>
#include <cstdint>

namespace ssf::cpu {

// Bound beyond which e^u is practically 0 or infinity. Read it once before a loop: if the compiler knew the bound, it
// would make two versions of the code after each comparison below.
inline const volatile float exp_bound = 87.0f;

// 1 + e^u; e^u = 2^n e^r with |r| <= ln(2) / 2. The minimax polynomial of e^r (error 3e-9) is summed in two independent
// halves, because a loop over it is limited by its longest chain of operations.
inline float one_plus_exp(float u, float bound) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  float v = u < bound ? u : bound;
  v = v > -bound ? v : -bound;
  const float shifted = v * 0x1.715476p0f + kRound;
  const float n = shifted - kRound;
  const float r = (v - n * 0x1.62ep-1f) - n * 0x1.0bfbe8p-15f, square = r * r;
  const float low = 0x1.555492p-3f * r + 0x1.fffffcp-2f;
  const float high = 0x1.6a241ap-10f * square + (0x1.1239f2p-7f * r + 0x1.5558f2p-5f);
  const float e = ((high * square + low) * square + r) + 1.0f;
  const uint32_t power = std::bit_cast<uint32_t>(e) + (std::bit_cast<uint32_t>(shifted) << 23);
  return 1.0f + std::bit_cast<float>(power);
}

// SiLU of -u within 2 ulp.
inline float silu_of_negative(float u, float bound) { return u / -one_plus_exp(u, bound); }

// The derivative of SiLU at z.
inline float silu_slope(float z, float bound) {
  const float sigmoid = 1.0f / one_plus_exp(-z, bound);
  return sigmoid * (1.0f + z * (1.0f - sigmoid));
}

}  // namespace ssf::cpu

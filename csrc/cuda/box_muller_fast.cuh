// SPDX-License-Identifier: Apache-2.0
// Box-Muller on two Philox words, the fast form: the special function unit's logarithm, root, sine and cosine.
//
// The uniforms are those of core/box_muller.h rounded to float32: u in (0, 1], the angle in [-pi, pi]. The PTX manual
// states lg2.approx within 2^-22, absolutely for u in (1/2, 2) and relatively elsewhere, sqrt.approx within 2^-23
// relatively, sin.approx and cos.approx within 2^-20.5 absolutely. With r = sqrt(-2 ln u) the normals are thus within
// r 2^-20 of the contract's where r > 1; the error grows to 2^-10.5 as r goes to 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/box_muller.h"
#include "cuda/intrinsics.cuh"

namespace ssf::cuda {

__device__ __forceinline__ NormalPair box_muller_fast(uint32_t radius_word, uint32_t angle_word) {
  const float u = std::fmaf(static_cast<float>(radius_word >> 8), 0x1p-24f, 0x1p-25f);
  // The error may take the logarithm past zero.
  const float radius = sqrt_approx(std::fmax(-1.3862943611f * log2_approx(u), 0.0f));
  // The shift is arithmetic: turns beyond one half become negative ones.
  const auto turn = static_cast<float>(static_cast<int32_t>(angle_word) >> 8);
  const float angle = std::fmaf(turn, 6.2831853072f * 0x1p-24f, 6.2831853072f * 0x1p-25f);
  return {radius * cos_approx(angle), radius * sin_approx(angle)};
}

}  // namespace ssf::cuda

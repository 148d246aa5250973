// SPDX-License-Identifier: Apache-2.0
// The fast form of Box-Muller on two Philox words, with logarithm, root, sine and cosine of the special function unit.
//
// The uniforms are those of core/box_muller.h rounded to float32: u in (0, 1], the angle in [-pi, pi]. The error bounds
// of the PTX manual are 2^-22 for lg2.approx (absolute for u in (1/2, 2), else relative), 2^-23 for sqrt.approx
// (relative), and 2^-20.5 for sin.approx and cos.approx (absolute). With r = sqrt(-2 ln u) the normals are therefore
// within r 2^-20 of the contract's for r > 1; the error grows to 2^-10.5 as r goes to 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/box_muller.h"
#include "cuda/intrinsics.cuh"

namespace ssf::cuda {

__device__ __forceinline__ NormalPair box_muller_fast(uint32_t radius_word, uint32_t angle_word) {
  const float u = std::fmaf(static_cast<float>(radius_word >> 8), 0x1p-24f, 0x1p-25f);
  // Due to its error the logarithm may have the wrong sign.
  const float radius = sqrt_approx(std::fmax(-1.3862943611f * log2_approx(u), 0.0f));
  // The shift is arithmetic, so that turns above one half become negative.
  const auto turn = static_cast<float>(static_cast<int32_t>(angle_word) >> 8);
  const float angle = std::fmaf(turn, 6.2831853072f * 0x1p-24f, 6.2831853072f * 0x1p-25f);
  return {radius * cos_approx(angle), radius * sin_approx(angle)};
}

}  // namespace ssf::cuda

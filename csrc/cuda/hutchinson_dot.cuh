// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/hutchinson_dot.h"
#include "cuda/noise.cuh"
#include "cuda/quads.cuh"
#include "cuda/reduce.cuh"

namespace ssf::cuda {

__device__ __forceinline__ void accumulate(const HutchinsonDot& at, int64_t sample, double dot) {
  const float* row = at.coefficients + at.index() * DotColumns::width;
  at.divergence[sample] += row[DotColumns::constant] + row[DotColumns::factor] * dot;
}

// Each block sums ROUNDS rounds of quads of one sample.
template <Noise NOISE, Type TANGENT, bool VECTOR, int ROUNDS, int THREADS>
__global__ void __launch_bounds__(THREADS) hutchinson_dot_kernel(const HutchinsonDot at, const PhiloxKeys keys) {
  const int64_t sample = block_sample();
  if (sample >= at.samples) return;
  const SampleField field = sample_field<NOISE>(keys, at.field, sample, at.field.draw);
  double sum[1] = {0};
  const Rounds rounds = block_rounds<ROUNDS, THREADS>(at.elements);
  for (uint32_t round = rounds.begin; round < rounds.end; ++round) {
    const Place<VECTOR, THREADS> place(sample, at.elements, round);
    Quad tangent[2];
    place.template load_all<TANGENT>(tangent, at.tangent);
    SSF_UNROLL
    for (int k = 0; k < 2; ++k) {
      const Quad probe = noise_call<NOISE>(field, place.call(k));
      SSF_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float dx = place.inside(k, i) ? tangent[k].v[i] : 0.0f;
        // A sign times a float is exact in float32.
        if constexpr (NOISE == Noise::signs)
          sum[0] += static_cast<double>(probe.v[i] * dx);
        else
          sum[0] = std::fma(static_cast<double>(probe.v[i]), static_cast<double>(dx), sum[0]);
      }
    }
  }
  block_sum<THREADS>(sum);
  if (threadIdx.x != 0) return;
  if (at.parts)
    at.parts[sample * gridDim.x + blockIdx.x] = sum[0];
  else
    accumulate(at, sample, sum[0]);
}

// Each warp sums the parts of one sample.
template <int THREADS>
__global__ void __launch_bounds__(THREADS) hutchinson_dot_sum_kernel(const HutchinsonDot at, const int64_t count) {
  const int64_t sample = warp_sample<THREADS>();
  if (sample >= at.samples) return;
  const double dot = warp_sum_of(at.parts + sample * count, count, 1);
  if (threadIdx.x % 32 == 0) accumulate(at, sample, dot);
}

}  // namespace ssf::cuda

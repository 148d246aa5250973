// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "cuda/langevin.h"
#include "cuda/noise.cuh"
#include "cuda/quads.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row.cuh"

namespace ssf::cuda {

// Each block sums ROUNDS rounds of quads of one sample.
template <Noise NOISE, Type OUTPUT, bool VECTOR, int ROUNDS, int THREADS>
__global__ void __launch_bounds__(THREADS) langevin_norms_kernel(const LangevinNorms at, const PhiloxKeys keys) {
  const int64_t sample = block_sample();
  if (sample >= at.samples) return;
  const Row<Columns> row(at.table);
  const float factor = row[Columns::derive_output];
  const SampleField field = sample_field<NOISE>(keys, at.field, sample, row.draw());
  float sums[2] = {0, 0};
  const Rounds rounds = block_rounds<ROUNDS, THREADS>(at.elements);
  for (uint32_t round = rounds.begin; round < rounds.end; ++round) {
    const Place<VECTOR, THREADS> place(sample, at.elements, round);
    Quad output[2];
    place.template load_all<OUTPUT>(output, at.output);
    SSF_UNROLL
    for (int k = 0; k < 2; ++k) {
      const Quad noise = noise_call<NOISE>(field, place.call(k));
      SSF_UNROLL
      for (int i = 0; i < 4; ++i) {
        const bool inside = place.inside(k, i);
        const float score = inside ? factor * output[k].v[i] : 0.0f, z = inside ? noise.v[i] : 0.0f;
        sums[0] = std::fmaf(score, score, sums[0]);
        sums[1] = std::fmaf(z, z, sums[1]);
      }
    }
  }
  block_sum<THREADS>(sums);
  float* out = at.parts ? at.parts + (sample * gridDim.x + blockIdx.x) * 2 : at.norms + sample * 2;
  if (threadIdx.x < 2) out[threadIdx.x] = sums[threadIdx.x];
}

// Each warp sums the parts of one sample.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    langevin_norms_sum_kernel(float* norms, const float* parts, const int64_t samples, const int64_t count) {
  const int64_t sample = warp_sample<THREADS>();
  if (sample >= samples) return;
  SSF_UNROLL
  for (int i = 0; i < 2; ++i) {
    const float sum = warp_sum_of(parts + sample * count * 2 + i, count, 2);
    if (threadIdx.x % 32 == 0) norms[sample * 2 + i] = sum;
  }
}

template <Noise NOISE, Type OUTPUT, bool VECTOR, int THREADS>
__global__ void __launch_bounds__(THREADS) langevin_step_kernel(const LangevinStep at, const PhiloxKeys keys) {
  const int64_t sample = block_sample();
  if (sample >= at.samples) return;
  const Place<VECTOR, THREADS> place(sample, at.elements, blockIdx.x);
  Quad x[2], o[2];
  SSF_UNROLL
  for (int k = 0; k < 2; ++k) x[k] = place.load(at.state, k);
  place.template load_all<OUTPUT>(o, at.output);

  const Row<Columns> row(at.table);
  const SampleField field = sample_field<NOISE>(keys, at.field, sample, row.draw());
  const float* squares = at.mean ? at.mean : at.norms + sample * 2;
  const float size = row[Columns::langevin] * divide_approx(squares[1], squares[0]);
  const float score_factor = size * row[Columns::derive_output], noise_factor = sqrt_approx(2.0f * size);
  SSF_UNROLL
  for (int k = 0; k < 2; ++k) {
    Quad next = x[k];
    add(next, score_factor, o[k]);
    add(next, noise_factor, noise_call<NOISE>(field, place.call(k)));
    place.store(at.state, k, next);
  }
}

// Computes the squared mean norms of the batch, which replace those of each sample; one block.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    langevin_mean_kernel(float* mean, const float* norms, const int64_t samples) {
  float sums[2] = {0, 0};
  for (int64_t sample = threadIdx.x; sample < samples; sample += THREADS) {
    sums[0] += std::sqrt(norms[sample * 2]);
    sums[1] += std::sqrt(norms[sample * 2 + 1]);
  }
  block_sum<THREADS>(sums);
  const float average = sums[threadIdx.x & 1] / static_cast<float>(samples);
  if (threadIdx.x < 2) mean[threadIdx.x] = average * average;
}

}  // namespace ssf::cuda

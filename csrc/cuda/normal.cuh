// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/noise.cuh"
#include "cuda/quads.cuh"

namespace ssf::cuda {

// Generates noise of any kind, for `normal` and `rademacher`.
template <Noise NOISE, bool VECTOR, int THREADS>
__global__ void __launch_bounds__(THREADS)
    field_kernel(float* out, const int64_t samples, const int64_t elements, const Field field, const PhiloxKeys keys) {
  const int64_t sample = block_sample();
  if (sample >= samples) return;
  const Place<VECTOR, THREADS> place(sample, elements, blockIdx.x);
  const SampleField own = sample_field<NOISE>(keys, field, sample, field.draw);
  SSF_UNROLL
  for (int k = 0; k < 2; ++k) place.store(out, k, noise_call<NOISE>(own, place.call(k)));
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
// Sums in a fixed order.
#pragma once

#include "cuda/intrinsics.cuh"

namespace ssf::cuda {

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  SSF_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// Replaces each of N values by its sum over the block; may be called once per kernel.
template <int THREADS, int N, class T>
__device__ __forceinline__ void block_sum(T (&values)[N]) {
  __shared__ T warps[THREADS / 32][N];
  SSF_UNROLL
  for (int i = 0; i < N; ++i) {
    values[i] = warp_sum(values[i]);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32][i] = values[i];
  }
  __syncthreads();
  SSF_UNROLL
  for (int i = 0; i < N; ++i) {
    values[i] = 0;
    SSF_UNROLL
    for (int warp = 0; warp < THREADS / 32; ++warp) values[i] += warps[warp][i];
  }
}

// The sum of `count` values `stride` apart, computed by one warp.
template <class T>
__device__ __forceinline__ T warp_sum_of(const T* first, int64_t count, int stride) {
  T sum = 0;
  for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += first[i * stride];
  return warp_sum(sum);
}

// The sample of this warp in a one-dimensional grid.
template <int THREADS>
__device__ __forceinline__ int64_t warp_sample() {
  return int64_t{blockIdx.x} * (THREADS / 32) + threadIdx.x / 32;
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
// Division of a batch among threads: each has a few quads (four neighbouring elements) of one sample, a block apart, so
// that accesses have 16 bytes and are contiguous within a warp.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/intrinsics.cuh"
#include "cuda/step.h"

namespace ssf::cuda {

struct Quad {
  float v[4];
};

__device__ __forceinline__ Quad quad_of(const float4& values) { return {{values.x, values.y, values.z, values.w}}; }

// A grid is (blocks per sample, samples, samples), because a single axis is limited to 65535.
__device__ __forceinline__ int64_t block_sample() { return int64_t{blockIdx.z} * gridDim.y + blockIdx.y; }

// Number of rounds of two quads per thread in a block's part of a sample: ROUNDS, or fewer at the end.
struct Rounds {
  uint32_t begin, end;
};
template <int ROUNDS, int THREADS>
__device__ __forceinline__ Rounds block_rounds(int64_t elements) {
  const auto all = static_cast<uint32_t>((static_cast<uint64_t>(elements) + 8 * THREADS - 1) / (8 * THREADS));
  const uint32_t begin = blockIdx.x * ROUNDS, end = begin + ROUNDS;
  return {begin, end < all ? end : all};
}

template <Type TYPE>
__device__ __forceinline__ float widen(uint16_t bits) {
  return TYPE == Type::bfloat16 ? float_of_bits(uint32_t{bits} << 16) : float_of_half(bits);
}

// A thread's QUADS quads, THREADS apart. VECTOR: samples consist of whole quads aligned to 16 bytes. Elements past the
// sample's end are undefined when read, and not written.
template <bool VECTOR, int THREADS, int QUADS = 2>
struct Place {
  int64_t offset;  // offset of this thread's first element in the batch
  uint32_t quad;   // index of its first quad in the sample
  int left;        // remaining elements of the sample in the block, from there on

  __device__ __forceinline__ Place(int64_t sample, int64_t elements, uint32_t round)
      : quad(round * (QUADS * THREADS) + threadIdx.x) {
    constexpr int kBlock = 4 * QUADS * THREADS;
    const int64_t begin = int64_t{round} * kBlock, rest = elements - begin;
    offset = sample * elements + begin + threadIdx.x * 4;
    left = static_cast<int>(rest < kBlock ? rest : kBlock) - static_cast<int>(threadIdx.x * 4);
  }

  __device__ __forceinline__ uint32_t call(int k) const { return quad + k * THREADS; }
  __device__ __forceinline__ bool inside(int k, int i) const { return left > k * (4 * THREADS) + (VECTOR ? 0 : i); }

  __device__ __forceinline__ Quad load(const float* batch, int k) const {
    const float* first = batch + offset + k * (4 * THREADS);
    Quad values = {};
    if constexpr (VECTOR) {
      values = quad_of(load16(first, inside(k, 0)));
    } else {
      SSF_UNROLL
      for (int i = 0; i < 4; ++i)
        if (inside(k, i)) values.v[i] = first[i];
    }
    return values;
  }

  __device__ __forceinline__ void store(float* batch, int k, const Quad& values) const {
    float* first = batch + offset + k * (4 * THREADS);
    if constexpr (VECTOR) {
      store16(first, {values.v[0], values.v[1], values.v[2], values.v[3]}, inside(k, 0));
    } else {
      SSF_UNROLL
      for (int i = 0; i < 4; ++i)
        if (inside(k, i)) first[i] = values.v[i];
    }
  }

  // Reads all quads of a tensor of any type, as float32. All threads of the block must call this.
  template <Type TYPE>
  __device__ __forceinline__ void load_all(Quad (&values)[QUADS], const void* batch) const {
    if constexpr (TYPE == Type::float32) {
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) values[k] = load(static_cast<const float*>(batch), k);
    } else if constexpr (TYPE != Type::none) {
      const uint16_t* first = static_cast<const uint16_t*>(batch) + offset;
      if constexpr (VECTOR) {
        SSF_UNROLL
        for (int k = 0; k < QUADS; k += 2) load_swapped<TYPE>(values, first, k);
      } else {
        SSF_UNROLL
        for (int k = 0; k < QUADS; ++k) SSF_UNROLL
        for (int i = 0; i < 4; ++i) values[k].v[i] = inside(k, i) ? widen<TYPE>(first[k * (4 * THREADS) + i]) : 0.0f;
      }
    }
  }

 private:
  // Sixteen bytes contain two neighbouring quads of 16-bit elements: in a pair of lanes, the even lane loads both quads
  // `begin` and the odd lane the next two, and they exchange one quad each.
  template <Type TYPE>
  __device__ __forceinline__ void load_swapped(Quad (&values)[QUADS], const uint16_t* first, int begin) const {
    const bool odd = threadIdx.x & 1;
    const int64_t skip = odd ? 4 * THREADS - 4 : 0;
    const int next = begin * (4 * THREADS), own = left - (odd ? 4 * THREADS : 0);
    const uint4 both = load16(first + next + skip, own > next);
    const uint32_t lower[2] = {both.x, both.y}, upper[2] = {both.z, both.w};
    SSF_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint32_t other = shuffle_xor(odd ? lower[i] : upper[i], 1);
      const uint32_t words[2] = {odd ? other : lower[i], odd ? upper[i] : other};
      SSF_UNROLL
      for (int k = 0; k < 2; ++k) {
        values[begin + k].v[2 * i] = widen<TYPE>(static_cast<uint16_t>(words[k]));
        values[begin + k].v[2 * i + 1] = widen<TYPE>(static_cast<uint16_t>(words[k] >> 16));
      }
    }
  }
};

// sum += factor values
__device__ __forceinline__ void add(Quad& sum, float factor, const Quad& values) {
  SSF_UNROLL
  for (int i = 0; i < 4; ++i) sum.v[i] = std::fmaf(factor, values.v[i], sum.v[i]);
}
__device__ __forceinline__ Quad scaled(float factor, const Quad& values) {
  return {{factor * values.v[0], factor * values.v[1], factor * values.v[2], factor * values.v[3]}};
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
// Noise of four neighbouring elements of a sample, in registers.
#pragma once

#include "core/box_muller.h"
#include "cuda/box_muller_fast.cuh"
#include "cuda/philox.cuh"
#include "cuda/quads.cuh"
#include "cuda/step.h"

namespace ssf::cuda {

// Quads per thread in a step; more without noise, because then threads mostly wait for memory.
template <Noise NOISE>
constexpr int kStepQuads = NOISE == Noise::none ? 4 : 2;

struct SampleField {
  const PhiloxKeys& keys;
  uint64_t sample_id;
  uint32_t draw;
};

template <Noise NOISE>
__device__ __forceinline__ SampleField sample_field(const PhiloxKeys& keys, const Field& field, int64_t sample,
                                                    uint32_t draw) {
  if constexpr (NOISE == Noise::none) return {keys, 0, 0};
  return {keys, static_cast<uint64_t>(field.sample_ids[sample]), draw};
}

// Elements 4 call to 4 call + 3.
template <Noise NOISE>
__device__ __forceinline__ Quad noise_call(const SampleField& field, uint32_t call) {
  const Words words = philox(noise_counter(call, field.draw, field.sample_id), field.keys);
  if constexpr (NOISE == Noise::signs) {
    Quad quad;
    SSF_UNROLL
    for (int i = 0; i < 4; ++i) quad.v[i] = float_of_bits(0x3f800000 | (words.w[i] & 0x80000000));
    return quad;
  } else {
    constexpr auto transform = NOISE == Noise::fast ? &box_muller_fast : &box_muller;
    const NormalPair a = transform(words.w[0], words.w[1]), b = transform(words.w[2], words.w[3]);
    return {{a.cosine, a.sine, b.cosine, b.sine}};
  }
}

// Elements first to first + 3; `first` need not be a multiple of four.
template <Noise NOISE>
__device__ __forceinline__ Quad noise_from(const SampleField& field, int64_t first) {
  const auto call = static_cast<uint32_t>(first / 4);
  const Quad low = noise_call<NOISE>(field, call);
  if (first % 4 == 0) return low;
  const Quad high = noise_call<NOISE>(field, call + 1);
  float values[8] = {low.v[0], low.v[1], low.v[2], low.v[3], high.v[0], high.v[1], high.v[2], high.v[3]};
  // Two shifts by constants keep the values in registers.
  SSF_UNROLL
  for (int i = 0; i < 6; ++i) values[i] = first & 2 ? values[i + 2] : values[i];
  SSF_UNROLL
  for (int i = 0; i < 4; ++i) values[i] = first & 1 ? values[i + 1] : values[i];
  return {{values[0], values[1], values[2], values[3]}};
}

}  // namespace ssf::cuda

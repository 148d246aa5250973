// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/noise.cuh"
#include "cuda/quads.cuh"
#include "cuda/row.cuh"
#include "cuda/step.h"

namespace ssf::cuda {

struct QuadPair {
  Quad x, v;
};

// sum += matrix (2x2, row by row) values
__device__ __forceinline__ void add(QuadPair& sum, const float* matrix, const QuadPair& values) {
  add(sum.x, matrix[0], values.x);
  add(sum.x, matrix[1], values.v);
  add(sum.v, matrix[2], values.x);
  add(sum.v, matrix[3], values.v);
}
// sum += (factors[0] values, factors[1] values)
__device__ __forceinline__ void add(QuadPair& sum, const float* factors, const Quad& values) {
  add(sum.x, factors[0], values);
  add(sum.v, factors[1], values);
}

// Like `affine_step_kernel`; a thread's offsets are in x, and those in v are half a sample further.
template <Noise NOISE, Type OUTPUT, bool LEAN, bool VECTOR, int THREADS>
__global__ void __launch_bounds__(THREADS) affine_step_pair_kernel(const Step step, const PhiloxKeys keys) {
  constexpr int QUADS = kStepQuads<NOISE>;
  const int64_t sample = block_sample();
  if (sample >= step.samples) return;
  const int64_t half = step.elements / 2;
  const Place<VECTOR, THREADS, QUADS> place(sample, half, blockIdx.x);
  // Offsets are for samples of half the pair's size; in a batch of pairs this sample starts at twice the offset.
  const int64_t skip = sample * half;
  const auto load = [&](const float* batch, int k) {
    return QuadPair{place.load(batch + skip, k), place.load(batch + skip + half, k)};
  };
  const auto store = [&](float* batch, int k, const QuadPair& values) {
    place.store(batch + skip, k, values.x);
    place.store(batch + skip + half, k, values.v);
  };
  QuadPair u[QUADS], next[QUADS] = {};
  Quad o[QUADS];
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) u[k] = load(step.state, k);
  place.template load_all<OUTPUT>(o, step.output);

  const Row<PairColumns> row(step.table);
  const Ring ring(step, row.control);
  const bool save = !LEAN && step.saved && row.control[ControlColumns::save];
  const SampleField field = sample_field<NOISE>(keys, step.field, sample, row.draw());
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) {
    add(next[k], row.coefficients + PairColumns::state, u[k]);
    if (!LEAN && step.saved) add(next[k], row.coefficients + PairColumns::saved, load(step.saved, k));
    if constexpr (OUTPUT != Type::none) add(next[k], row.coefficients + PairColumns::output, o[k]);
    if constexpr (!LEAN) {
      SSF_UNROLL
      for (int e = 1; e <= 3; ++e)
        if (e <= step.earlier)
          add(next[k], row.coefficients + PairColumns::earlier1 + 4 * (e - 1), load(step.history + ring.offset(e), k));
    }
    if constexpr (NOISE != Noise::none) {
      const float* factors = row.coefficients + PairColumns::noise;
      const Quad x = noise_call<NOISE>(field, place.call(k));
      // Noise elements are numbered over the whole pair, and those of v need not start at a call boundary.
      const Quad v = VECTOR ? noise_call<NOISE>(field, static_cast<uint32_t>(half / 4) + place.call(k))
                            : noise_from<NOISE>(field, half + int64_t{place.call(k)} * 4);
      add(next[k].x, factors[0], x);
      add(next[k].v, factors[1], x);
      add(next[k].v, factors[2], v);
    }
  }
  if constexpr (!LEAN) {
    if (OUTPUT != Type::none && step.history) {
      QuadPair derived[QUADS] = {};
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) {
        add(derived[k], row.coefficients + PairColumns::derive_state, u[k]);
        add(derived[k], row.coefficients + PairColumns::derive_output, o[k]);
      }
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) store(step.history + ring.offset(0), k, derived[k]);
    }
    if (save) {
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) store(step.saved, k, u[k]);
    }
  }
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) store(step.state, k, next[k]);
}

}  // namespace ssf::cuda

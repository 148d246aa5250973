// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/noise.cuh"
#include "cuda/quads.cuh"
#include "cuda/row.cuh"
#include "cuda/step.h"

namespace ssf::cuda {

// LEAN: a row without saved state and history. All reads precede all writes and no pointer is __restrict__, because the
// newest derived output may overwrite the oldest one read. Without noise all elements are equivalent, and the batch is
// treated as a single sample. By default ptxas limits the general form to 48 registers and spills; seven blocks per
// multiprocessor allow 72.
template <Noise NOISE, Type OUTPUT, bool LEAN, bool VECTOR, int THREADS>
__global__ void __launch_bounds__(THREADS, LEAN ? 0 : 7) affine_step_kernel(const Step step, const PhiloxKeys keys) {
  constexpr int QUADS = kStepQuads<NOISE>;
  const int64_t sample = NOISE == Noise::none ? 0 : block_sample();
  if (NOISE != Noise::none && sample >= step.samples) return;
  const Place<VECTOR, THREADS, QUADS> place(sample, step.elements, blockIdx.x);
  Quad x[QUADS], o[QUADS], next[QUADS];
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) x[k] = place.load(step.state, k);
  place.template load_all<OUTPUT>(o, step.output);

  const Row<Columns> row(step.table);
  const Ring ring(step, row.control);
  const bool save = !LEAN && step.saved && row.control[ControlColumns::save];
  const SampleField field = sample_field<NOISE>(keys, step.field, sample, row.draw());
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) {
    next[k] = scaled(row[Columns::state], x[k]);
    if (!LEAN && step.saved) add(next[k], row[Columns::saved], place.load(step.saved, k));
    if constexpr (OUTPUT != Type::none) add(next[k], row[Columns::output], o[k]);
    if constexpr (!LEAN) {
      SSF_UNROLL
      for (int e = 1; e <= 3; ++e)
        if (e <= step.earlier)
          add(next[k], row[Columns::earlier1 + e - 1], place.load(step.history + ring.offset(e), k));
    }
    if constexpr (NOISE != Noise::none) add(next[k], row[Columns::noise], noise_call<NOISE>(field, place.call(k)));
  }
  if constexpr (!LEAN) {
    if (OUTPUT != Type::none && step.history) {
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) {
        Quad derived = scaled(row[Columns::derive_state], x[k]);
        add(derived, row[Columns::derive_output], o[k]);
        place.store(step.history + ring.offset(0), k, derived);
      }
    }
    if (save) {
      SSF_UNROLL
      for (int k = 0; k < QUADS; ++k) place.store(step.saved, k, x[k]);
    }
  }
  SSF_UNROLL
  for (int k = 0; k < QUADS; ++k) place.store(step.state, k, next[k]);
}

}  // namespace ssf::cuda

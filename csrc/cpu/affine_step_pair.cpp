// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/step_table.h"
#include "cpu/affine_step.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// A block of x and the corresponding block of v.
using PairBlock = float[2][kBlock];

// pair += matrix (x, v); the 2x2 matrix is stored row by row.
SSF_HD void add(PairBlock& pair, const float* matrix, const float* x, const float* v, int64_t count) {
  for (int half = 0; half < 2; ++half)
    for (int64_t i = 0; i < count; ++i)
      pair[half][i] = fused(matrix[2 * half], x[i], fused(matrix[2 * half + 1], v[i], pair[half][i]));
}

// pair += vector output.
SSF_HD void add(PairBlock& pair, const float* vector, const float* output, int64_t count) {
  for (int half = 0; half < 2; ++half)
    for (int64_t i = 0; i < count; ++i) pair[half][i] = fused(vector[half], output[i], pair[half][i]);
}

}  // namespace

SSF_VECTORIZE
void affine_step_pair(const AffineStep& step, int64_t sample, int64_t begin, int64_t end) {
  const float* row = step.row;
  const int32_t slot = step.control[ControlColumns::slot];
  const int64_t half = step.elements / 2, base = sample * step.elements, ring_stride = step.samples * step.elements;
  PairBlock next, derived, noise;
  float buffer[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock), x_at = base + first, v_at = x_at + half;
    float *x = step.state + x_at, *v = step.state + v_at;
    std::fill_n(&next[0][0], 2 * kBlock, 0.0f);
    add(next, row + PairColumns::state, x, v, count);
    if (step.saved) add(next, row + PairColumns::saved, step.saved + x_at, step.saved + v_at, count);
    const float* output = nullptr;
    if (step.output) {
      output = as_float(buffer, step.output, step.output_dtype, sample * half + first, count);
      add(next, row + PairColumns::output, output, count);
    }
    for (int k = 1; k <= step.earlier; ++k) {
      const float* ring = step.history + ring_place(slot, k, step.ring) * ring_stride;
      add(next, row + PairColumns::earlier1 + 4 * (k - 1), ring + x_at, ring + v_at, count);
    }
    if (step.sample_ids) {
      const float* cholesky = row + PairColumns::noise;
      const float factor[4] = {cholesky[0], 0.0f, cholesky[1], cholesky[2]};
      make_normals(noise[0], step.field(sample), first, count);
      make_unaligned(noise[1], step.field(sample), half + first, count);
      add(next, factor, noise[0], noise[1], count);
    }
    if (step.history && output) {
      std::fill_n(&derived[0][0], 2 * kBlock, 0.0f);
      add(derived, row + PairColumns::derive_state, x, v, count);
      add(derived, row + PairColumns::derive_output, output, count);
      float* ring = step.history + ring_place(slot, 0, step.ring) * ring_stride;
      std::copy_n(derived[0], count, ring + x_at);
      std::copy_n(derived[1], count, ring + v_at);
    }
    if (step.saved && step.control[ControlColumns::save]) {
      std::copy_n(x, count, step.saved + x_at);
      std::copy_n(v, count, step.saved + v_at);
    }
    std::copy_n(next[0], count, x);
    std::copy_n(next[1], count, v);
  }
}

}  // namespace ssf::cpu

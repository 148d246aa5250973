// SPDX-License-Identifier: Apache-2.0
#include "cpu/affine_step.h"

#include <algorithm>

#include "core/step_table.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

SSF_HD void add(float* next, float coefficient, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) next[i] = fused(coefficient, values[i], next[i]);
}

}  // namespace

SSF_VECTORIZE
void affine_step(const AffineStep& step, int64_t sample, int64_t begin, int64_t end) {
  const float* row = step.row;
  const int32_t slot = step.control[ControlColumns::slot];
  const int64_t base = sample * step.elements, ring_stride = step.samples * step.elements;
  float next[kBlock], buffer[kBlock], noise[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock), at = base + first;
    float* state = step.state + at;
    const float* output = nullptr;
    if (step.output) {
      output = as_float(buffer, step.output, step.output_dtype, at, count);
      const float of_state = row[Columns::state], of_output = row[Columns::output];
      for (int64_t i = 0; i < count; ++i) next[i] = fused(of_output, output[i], of_state * state[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) next[i] = row[Columns::state] * state[i];
    }
    if (step.saved) add(next, row[Columns::saved], step.saved + at, count);
    for (int k = 1; k <= step.earlier; ++k) {
      const float* derived = step.history + ring_place(slot, k, step.ring) * ring_stride + at;
      add(next, row[Columns::earlier1 + k - 1], derived, count);
    }
    if (step.history && output) {
      float* derived = step.history + ring_place(slot, 0, step.ring) * ring_stride + at;
      for (int64_t i = 0; i < count; ++i) derived[i] = row[Columns::derive_state] * state[i];
      add(derived, row[Columns::derive_output], output, count);
    }
    if (step.saved && step.control[ControlColumns::save]) std::copy_n(state, count, step.saved + at);
    if (step.sample_ids) {
      make_normals(noise, step.field(sample), first, count);
      const float of_noise = row[Columns::noise];
      for (int64_t i = 0; i < count; ++i) state[i] = fused(of_noise, noise[i], next[i]);
    } else {
      std::copy_n(next, count, state);
    }
  }
}

}  // namespace ssf::cpu

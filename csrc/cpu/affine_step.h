// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/step_table.h"
#include "cpu/network_dtype.h"
#include "cpu/noise.h"

namespace ssf::cpu {

// Arguments of a step of all samples, see scoresde_fast/ops/affine_step.py; absent registers are null.
struct AffineStep {
  float *state, *saved, *history;
  const void* output;
  Dtype output_dtype;
  const float* row;        // coefficients, see Columns and PairColumns
  const int32_t* control;  // integers, see ControlColumns
  const int64_t* sample_ids;
  int64_t samples, elements;  // elements of a sample, including both halves of a pair
  int64_t ring;               // length of `history`
  int earlier;
  uint64_t run_seed;

  Field field(int64_t sample) const {
    return {run_seed, static_cast<uint64_t>(sample_ids[sample]), static_cast<uint32_t>(control[ControlColumns::draw])};
  }
};

// Computes elements [begin, end) of one sample; `begin` is a multiple of 4. Ranges are independent of each other.
void affine_step(const AffineStep& step, int64_t sample, int64_t begin, int64_t end);

// The same for pairs: computes elements [begin, end) of each half, which has elements / 2.
void affine_step_pair(const AffineStep& step, int64_t sample, int64_t begin, int64_t end);

}  // namespace ssf::cpu

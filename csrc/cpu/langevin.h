// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/network_dtype.h"
#include "cpu/noise.h"

namespace ssf::cpu {

// The network's output of one sample and the row's noise; the score is `factor` times the output.
struct Score {
  const void* output;  // of the whole batch
  Dtype dtype;
  int64_t base;  // index of the sample's first element in `output`
  float factor;
  Field field;
};

struct Norms {
  double score, noise;
};

// Returns the sums of squares over elements [begin, end) of the sample; `begin` is a multiple of 4. The noise is stored
// in the sample's `kept`, unless that is null.
Norms langevin_norms(const Score& score, float* kept, int64_t begin, int64_t end);

// Adds size score + sqrt(2 size) noise to elements [begin, end) of the sample's `state`. The noise is read from the
// sample's `kept`, or generated again if that is null.
void langevin_step(float* state, const Score& score, const float* kept, float size, int64_t begin, int64_t end);

}  // namespace ssf::cpu

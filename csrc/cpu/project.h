// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/step_table.h"
#include "cpu/noise.h"

namespace ssf::cpu {

// Arguments of a projection of all samples, see scoresde_fast/ops/project.py.
struct Projection {
  float* state;
  const float* known;
  const uint8_t* mask;  // any number other than 0 is true
  const float* row;     // coefficients, see LevelColumns
  const int64_t* sample_ids;
  uint64_t run_seed;
  uint32_t draw;
  int64_t means[3];  // channels, height and width of `known`
  int64_t block[3];  // channels, height and width of a block of the state
  bool pairs;

  int64_t count() const { return means[0] * means[1] * means[2]; }
  int64_t block_size() const { return block[0] * block[1] * block[2]; }
};

// Handles means [begin, end) of one sample; `begin` is a multiple of 4. Ranges are independent of each other.
void project(const Projection& projection, int64_t sample, int64_t begin, int64_t end);

}  // namespace ssf::cpu

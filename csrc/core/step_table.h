// SPDX-License-Identifier: Apache-2.0
// The table of a run: columns as scoresde_fast/ops/step_table.py names them, and how a step finds its row.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace ssf {

// Columns of the coefficients of affine_step and the Langevin operations.
struct Columns {
  enum { state, saved, output, earlier, noise = 6, derive_state, derive_output, langevin, width };
};

// First columns of the coefficients of affine_step_pair: 2x2 matrices row by row, the noise (xx, vx, vv).
struct PairColumns {
  enum { state, saved = 4, output = 8, earlier = 10, noise = 22, derive_state = 25, derive_output = 29, width = 31 };
};

struct Control {
  enum { draw, slot, save, width };
};

// Where a step's coefficients lie. The counter is int32 or int64, or null; it is never past the table by more than the
// caller's mistake, and then the last row is taken rather than foreign memory.
struct RowIndex {
  const void* counter;
  bool wide_counter;
  int64_t offset, rows;

  SSF_HD int64_t operator()() const {
    int64_t index = offset;
    if (counter)
      index += wide_counter ? *static_cast<const int64_t*>(counter) : int64_t{*static_cast<const int32_t*>(counter)};
    return index < rows ? index : rows - 1;
  }
};

// The place in a ring of `length` of the derived output of `k` evaluations before the one numbered `slot`.
SSF_HD int64_t ring_place(int32_t slot, int k, int64_t length) { return (slot - k + length * 4) % length; }

}  // namespace ssf

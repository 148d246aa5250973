// SPDX-License-Identifier: Apache-2.0
// Columns of step tables, named as in scoresde_fast/ops/step_table.py, and the row index of a step.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace ssf {

// Columns of the coefficients of affine_step and the Langevin operations.
struct Columns {
  enum { state, saved, output, earlier1, earlier2, earlier3, noise, derive_state, derive_output, langevin, width };
};

// First columns of the coefficients of affine_step_pair; 2x2 matrices are stored row by row, the noise is (xx, vx, vv).
struct PairColumns {
  enum {
    state,
    saved = 4,
    output = 8,
    earlier1 = 10,
    earlier2 = 14,
    earlier3 = 18,
    noise = 22,
    derive_state = 25,
    derive_output = 29,
    width = 31
  };
};

// Columns of the coefficients of project.
struct LevelColumns {
  enum { scale, noise, velocity_scale, velocity_noise_x, velocity_noise_v, width };
};

// Columns of the coefficients of hutchinson_dot.
struct DotColumns {
  enum { constant, factor, width };
};

// Columns of the control integers.
struct ControlColumns {
  enum { draw, slot, save, width };
};

// The row index of a step: counter + offset, or the last row if that is outside the table, so that a caller's mistake
// causes no out-of-bounds access. The counter is int32 or int64, or null; the offset is not negative.
struct RowIndex {
  const void* counter;
  bool wide_counter;
  int64_t offset, rows;

  SSF_HD int64_t count() const {
    if (!counter) return 0;
    return wide_counter ? *static_cast<const int64_t*>(counter) : int64_t{*static_cast<const int32_t*>(counter)};
  }

  SSF_HD int64_t operator()() const {
    // Unsigned, so that numbers below zero are past the end too, and no sum overflows.
    const uint64_t index = static_cast<uint64_t>(count()) + static_cast<uint64_t>(offset);
    return index < static_cast<uint64_t>(rows) ? static_cast<int64_t>(index) : rows - 1;
  }
};

// The index, in a ring buffer of `length` derived outputs, of the output `k` evaluations before number `slot`, k <= 3.
// The slot is read as unsigned, so that the index is in the buffer whatever the slot.
SSF_HD int64_t ring_place(int32_t slot, int k, int64_t length) {
  return (static_cast<int64_t>(static_cast<uint32_t>(slot)) - k + length * 4) % length;
}

}  // namespace ssf

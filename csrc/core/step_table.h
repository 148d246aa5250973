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

// The row index of a step: counter + offset, clamped to the table, so that a caller's mistake causes no out-of-bounds
// access. The counter is int32 or int64, or null.
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

// The index, in a ring buffer of `length` derived outputs, of the output `k` evaluations before number `slot`.
SSF_HD int64_t ring_place(int32_t slot, int k, int64_t length) { return (slot - k + length * 4) % length; }

}  // namespace ssf

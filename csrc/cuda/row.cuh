// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/intrinsics.cuh"
#include "cuda/step.h"

namespace ssf::cuda {

// A row of a table in registers; the compiler removes loads of unused coefficients.
template <class COLUMNS>
struct Row {
  float coefficients[COLUMNS::width];
  const int32_t* control;

  // `RowIndex` in 32 bits, which is enough for any table; the low half of a 64-bit counter comes first.
  __device__ __forceinline__ explicit Row(const Table& table) {
    const auto* counter = static_cast<const uint32_t*>(table.index.counter);
    const auto last = static_cast<uint32_t>(table.index.rows - 1);
    uint32_t index = (counter ? *counter : 0) + static_cast<uint32_t>(table.index.offset);
    if (index > last) index = last;
    const float* first = table.coefficients + uint64_t{index} * COLUMNS::width;
    SSF_UNROLL
    for (int i = 0; i < COLUMNS::width; ++i) coefficients[i] = first[i];
    control = table.control + uint64_t{index} * ControlColumns::width;
  }

  __device__ __forceinline__ float operator[](int column) const { return coefficients[column]; }
  __device__ __forceinline__ uint32_t draw() const { return static_cast<uint32_t>(control[ControlColumns::draw]); }
};

// `ring_place` of core/step_table.h with one 32-bit remainder: 64-bit ones are a subroutine on a GPU.
struct Ring {
  int64_t stride;
  uint32_t newest, length;

  __device__ __forceinline__ Ring(const Step& step, const int32_t* control)
      : stride(step.samples * step.elements), newest(0), length(static_cast<uint32_t>(step.history_length)) {
    if (step.history) newest = static_cast<uint32_t>(control[ControlColumns::slot]) % length;
  }

  // The history index of the derived output of `k` evaluations ago, k <= length; k = 0 is this row's.
  __device__ __forceinline__ int64_t offset(uint32_t k) const {
    return (newest >= k ? newest - k : newest + length - k) * stride;
  }
};

}  // namespace ssf::cuda

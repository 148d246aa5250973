// SPDX-License-Identifier: Apache-2.0
// Arguments of the launch functions: raw pointers and sizes, without torch or CUDA headers.
#pragma once

#include <cstdint>

#include "core/step_table.h"

namespace ssf::cuda {

enum class Noise { none, fast, precise, signs };
enum class Type { none, float32, bfloat16, float16 };

// Launch functions return a cudaError_t as an int; 0 is success.
const char* describe(int error);

// Identifies the noise of a draw; steps read the draw from the table instead.
struct Field {
  const int64_t* sample_ids;
  uint64_t run_seed;
  uint32_t draw;
  Noise noise;
};

struct Table {
  const float* coefficients;
  const int32_t* control;
  RowIndex index;
};

// A row of a table for states of `samples` x `elements` contiguous values. Null pointers are absent registers.
struct Step {
  float *state, *saved, *history;
  const void* output;
  Type output_type;
  int earlier;
  int64_t samples, elements, history_length;
  Table table;
  Field field;
};

}  // namespace ssf::cuda

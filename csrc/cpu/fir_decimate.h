// SPDX-License-Identifier: Apache-2.0
// Filters and halves rows of few elements a column; with four taps by shuffles, where compilers make twice as many.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/host_device.h"
#include "cpu/element.h"
#include "cpu/fir_resample.h"

namespace ssf::cpu {

inline double widen(double value) { return value; }
inline void narrow(double value, double& out) { out = value; }

// Rows of every second column: out[j] = sum_t taps[count - 1 - t] in[2 j + t], in runs of n elements.
template <class Acc, class Out>
struct Decimate {
  const Acc* taps;
  int count;
  int64_t rows, columns, n;
  const Acc* in;
  int64_t in_stride;
  Out* out;
};

// kCount, kRun: `count` and `n` where they are known, 0 otherwise.
template <int kCount, int kRun, class Acc, class Out>
SSF_HD void decimate_of(const Decimate<Acc, Out>& op) {
  const int count = kCount ? kCount : op.count;
  const int64_t n = kRun ? kRun : op.n;
  Acc taps[kMaxTaps];
  for (int t = 0; t < count; ++t) taps[t] = op.taps[count - 1 - t];
  for (int64_t row = 0; row < op.rows; ++row) {
    const Acc* in = op.in + row * op.in_stride;
    Out* __restrict out = op.out + row * op.columns * n;
    for (int64_t j = 0; j < op.columns; ++j) {
      for (int64_t c = 0; c < n; ++c) {
        Acc value = taps[0] * in[2 * j * n + c];
        for (int t = 1; t < count; ++t) value += taps[t] * in[(2 * j + t) * n + c];
        narrow(value, out[j * n + c]);
      }
    }
  }
}

using Four = float __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));

// Numbers 0, 2, 4, ... and 1, 3, 5, ... of two vectors; of long ones in the order that `reorder` undoes, which is a
// shuffle the less for each.
SSF_HD void split(const Four& a, const Four& b, Four& even, Four& odd) {
  even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
SSF_HD void split(const Eight& a, const Eight& b, Eight& even, Eight& odd) {
  even = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
  odd = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
SSF_HD void reorder(Four&) {}
SSF_HD void reorder(Eight& value) { value = __builtin_shufflevector(value, value, 0, 1, 4, 5, 2, 3, 6, 7); }

// As many columns as a vector has, with four taps.
template <class Vector, class Out>
SSF_HD void decimate_four(const float* in, const float (&taps)[kMaxTaps], Out* __restrict out) {
  constexpr int kSize = sizeof(Vector) / sizeof(float);
  Vector in0, in1, in2, in3, even0, odd0, even2, odd2;
  std::memcpy(&in0, in, sizeof(Vector));
  std::memcpy(&in1, in + kSize, sizeof(Vector));
  std::memcpy(&in2, in + 2, sizeof(Vector));
  std::memcpy(&in3, in + 2 + kSize, sizeof(Vector));
  split(in0, in1, even0, odd0);
  split(in2, in3, even2, odd2);
  Vector value = taps[0] * even0 + taps[1] * odd0 + taps[2] * even2 + taps[3] * odd2;
  reorder(value);
  for (int i = 0; i < kSize; ++i) narrow(value[i], out[i]);
}

template <class Out>
SSF_HD void decimate_lines(const Decimate<float, Out>& op) {
  float taps[kMaxTaps];
  for (int t = 0; t < 4; ++t) taps[t] = op.taps[3 - t];
  for (int64_t row = 0; row < op.rows; ++row) {
    const float* in = op.in + row * op.in_stride;
    Out* out = op.out + row * op.columns;
    int64_t j = 0;
    for (; j + 8 <= op.columns; j += 8) decimate_four<Eight>(in + 2 * j, taps, out + j);
    for (; j + 4 <= op.columns; j += 4) decimate_four<Four>(in + 2 * j, taps, out + j);
    for (; j < op.columns; ++j) {
      float value = taps[0] * in[2 * j];
      for (int t = 1; t < 4; ++t) value += taps[t] * in[2 * j + t];
      narrow(value, out[j]);
    }
  }
}

template <class Acc, class Out>
SSF_HD void decimate(const Decimate<Acc, Out>& op) {
  if constexpr (std::is_same_v<Acc, float>) {
    if (op.n == 1 && op.count == 4) return decimate_lines(op);
  }
  if (op.n == 3 && op.count == 4) return decimate_of<4, 3>(op);
  if (op.n == 1) return decimate_of<0, 1>(op);
  decimate_of<0, 0>(op);
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
// Downsampling of rows with few elements per column.
#pragma once

#include <cstdint>

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

// kCount, kRun: `count` and `n` where known at compile time, 0 otherwise.
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

template <class Acc, class Out>
SSF_HD void decimate(const Decimate<Acc, Out>& op) {
  if (op.n == 3 && op.count == 4) return decimate_of<4, 3>(op);
  if (op.n == 1 && op.count == 4) return decimate_of<4, 1>(op);
  if (op.n == 1) return decimate_of<0, 1>(op);
  decimate_of<0, 0>(op);
}

}  // namespace ssf::cpu

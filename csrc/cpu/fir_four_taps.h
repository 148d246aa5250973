// SPDX-License-Identifier: Apache-2.0
// Resampling with four centred taps, the filter of all networks, in one pass: sums over rows stay in registers, and the
// columns are computed from them.
//   up:   y[2 j] = h[1] x[j] + h[3] x[j - 1],  y[2 j + 1] = h[0] x[j + 1] + h[2] x[j]
//   down: y[j] = h[0] x[2 j + 2] + h[1] x[2 j + 1] + h[2] x[2 j] + h[3] x[2 j - 1]
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "cpu/fir_resample.h"

namespace ssf::cpu {

using Four = float __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));

template <class Vector>
SSF_HD Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof(Vector));
  return value;
}

template <class Vector>
SSF_HD void store(const Vector& value, float* to) {
  std::memcpy(to, &value, sizeof(Vector));
}

// Lanes one to the left and one to the right, of neighbouring vectors.
SSF_HD Four before(const Four& left, const Four& value) { return __builtin_shufflevector(left, value, 3, 4, 5, 6); }
SSF_HD Four after(const Four& value, const Four& right) { return __builtin_shufflevector(value, right, 1, 2, 3, 4); }
SSF_HD Eight before(const Eight& left, const Eight& value) {
  return __builtin_shufflevector(left, value, 7, 8, 9, 10, 11, 12, 13, 14);
}
SSF_HD Eight after(const Eight& value, const Eight& right) {
  return __builtin_shufflevector(value, right, 1, 2, 3, 4, 5, 6, 7, 8);
}

// Elements 0, 2, 4, ... and 1, 3, 5, ... of two vectors, and the inverse.
SSF_HD void split(const Four& a, const Four& b, Four& even, Four& odd) {
  even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
SSF_HD void split(const Eight& a, const Eight& b, Eight& even, Eight& odd) {
  // In two steps with the second one common to both halves; otherwise compilers need six instructions for both results.
  even = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
  odd = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  even = __builtin_shufflevector(even, even, 0, 1, 4, 5, 2, 3, 6, 7);
  odd = __builtin_shufflevector(odd, odd, 0, 1, 4, 5, 2, 3, 6, 7);
}
SSF_HD void join(const Eight& even, const Eight& odd, Eight& a, Eight& b) {
  a = __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
  b = __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
}

// For floats; `inner` is a multiple of 8, or it is 1 and `width` is a multiple of 8.
struct FourTaps {
  int64_t height, width, inner;
  const float *x, *zeros;  // zeros: a line of zeros, for rows outside the plane
  float *out, *left;       // left: buffer for two pixels, the sums of the previous columns
  float column_taps[4], row_taps[4];
};

// Most memory traffic is for outputs, and large ones are in no cache: prefetching their lines 2 KB ahead is 1.5 times
// as fast (256 channels of 16x16 on Zen 3), and costs little for outputs in a cache.
constexpr int64_t kAhead = 512;

// Adds input column j to kRows output rows of the same two input rows: to column 2 j - 1 unless j = 0 (kFirst), and
// to 2 j unless j = width (kLast). `left` has the sums over rows of column j - 1, `inner` for each output row, and
// afterwards those of column j.
template <int kRows, bool kFirst, bool kLast>
SSF_HD void up_column(const FourTaps& op, const float* above, const float* below, const float (&weights)[kRows][2],
                      float* __restrict left, float* __restrict to) {
  const int64_t inner = op.inner, line = 2 * op.width * inner;
  const float h0 = op.row_taps[0], h1 = op.row_taps[1], h2 = op.row_taps[2], h3 = op.row_taps[3];
  for (int64_t c = 0; c < inner; c += 8) {
    Eight a{}, b{};
    if (!kLast) a = load<Eight>(above + c), b = load<Eight>(below + c);
    for (int r = 0; r < kRows; ++r) {
      float *kept = left + r * inner + c, *pixel = to + r * line + c;
      const Eight here = weights[r][0] * b + weights[r][1] * a;
      Eight before{};
      if (c % 16 == 0) {
        __builtin_prefetch(pixel + kAhead, 1);
        __builtin_prefetch(pixel + kAhead - inner, 1);
      }
      if (!kFirst) {
        before = load<Eight>(kept);
        store(h0 * here + h2 * before, pixel - inner);
      }
      if (!kLast) {
        store(h1 * here + h3 * before, pixel);
        store(here, kept);
      }
    }
  }
}

template <int kRows>
SSF_HD void up_pixels(const FourTaps& op, const float* above, const float* below, const float (&weights)[kRows][2],
                      float* to) {
  const int64_t inner = op.inner, width = op.width;
  up_column<kRows, true, false>(op, above, below, weights, op.left, to);
  for (int64_t j = 1; j < width; ++j)
    up_column<kRows, false, false>(op, above + j * inner, below + j * inner, weights, op.left, to + 2 * j * inner);
  up_column<kRows, false, true>(op, above, below, weights, op.left, to + 2 * width * inner);
}

// Column j of an output row, from input columns 2 j - 1 to 2 j + 2. `left` has the sums over rows of the first two of
// these, and afterwards those of the last two.
template <bool kFirst, bool kLast>
SSF_HD void down_columns(const FourTaps& op, const float* const (&rows)[4], int64_t j, float* __restrict left,
                         float* __restrict to) {
  const int64_t inner = op.inner;
  const float h0 = op.row_taps[0], h1 = op.row_taps[1], h2 = op.row_taps[2], h3 = op.row_taps[3];
  const float w0 = op.column_taps[0], w1 = op.column_taps[1], w2 = op.column_taps[2], w3 = op.column_taps[3];
  const float *a = rows[0] + (2 * j + 1) * inner, *b = rows[1] + (2 * j + 1) * inner,
              *c = rows[2] + (2 * j + 1) * inner, *d = rows[3] + (2 * j + 1) * inner;
  for (int64_t i = 0; i < inner; i += 8) {
    Eight here{}, next{};
    if (!kFirst)
      here = w0 * load<Eight>(a + i) + w1 * load<Eight>(b + i) + w2 * load<Eight>(c + i) + w3 * load<Eight>(d + i);
    const int64_t k = i + inner;
    if (!kLast)
      next = w0 * load<Eight>(a + k) + w1 * load<Eight>(b + k) + w2 * load<Eight>(c + k) + w3 * load<Eight>(d + k);
    if (!kFirst)
      store(h0 * next + h1 * here + h2 * load<Eight>(left + k) + h3 * load<Eight>(left + i), to + j * inner + i);
    store(here, left + i);
    store(next, left + k);
  }
}

SSF_HD void down_pixels(const FourTaps& op, const float* const (&rows)[4], float* to) {
  const int64_t last = op.width / 2 - 1;
  down_columns<true, false>(op, rows, -1, op.left, to);
  for (int64_t j = 0; j < last; ++j) down_columns<false, false>(op, rows, j, op.left, to);
  down_columns<false, true>(op, rows, last, op.left, to);
}

// One value per column.
SSF_HD void up_line(const FourTaps& op, const float* above, const float* below, const float (&weights)[2], float* to) {
  const int64_t width = op.width;
  const float h0 = op.row_taps[0], h1 = op.row_taps[1], h2 = op.row_taps[2], h3 = op.row_taps[3];
  const float w0 = weights[0], w1 = weights[1];
  Eight left{}, here = w0 * load<Eight>(below) + w1 * load<Eight>(above);
  for (int64_t j = 8; j <= width; j += 8) {
    Eight right{}, a, b;
    if (j < width) right = w0 * load<Eight>(below + j) + w1 * load<Eight>(above + j);
    __builtin_prefetch(to + 2 * j + kAhead, 1);
    join(h1 * here + h3 * before(left, here), h0 * after(here, right) + h2 * here, a, b);
    store(a, to + 2 * j - 16);
    store(b, to + 2 * j - 8);
    left = here;
    here = right;
  }
}

// Two vectors of sums over rows, their even and their odd columns.
template <class Vector>
SSF_HD void sum_and_split(const float (&taps)[4], const float* const (&rows)[4], int64_t j, Vector& even, Vector& odd) {
  constexpr int kLanes = sizeof(Vector) / sizeof(float);
  Vector sums[2];
  for (int i = 0; i < 2; ++i, j += kLanes)
    sums[i] = taps[0] * load<Vector>(rows[0] + j) + taps[1] * load<Vector>(rows[1] + j) +
              taps[2] * load<Vector>(rows[2] + j) + taps[3] * load<Vector>(rows[3] + j);
  split(sums[0], sums[1], even, odd);
}

// One value per column; `width` is a multiple of two vectors.
template <class Vector>
SSF_HD void down_line(const FourTaps& op, const float* const (&rows)[4], float* to) {
  const int64_t step = 2 * sizeof(Vector) / sizeof(float), width = op.width;
  const float h0 = op.row_taps[0], h1 = op.row_taps[1], h2 = op.row_taps[2], h3 = op.row_taps[3];
  const float column_taps[4] = {op.column_taps[0], op.column_taps[1], op.column_taps[2], op.column_taps[3]};
  Vector left{}, even, odd;
  sum_and_split(column_taps, rows, 0, even, odd);
  for (int64_t j = step; j <= width; j += step, to += step / 2) {
    Vector next_even{}, next_odd{};
    if (j < width) sum_and_split(column_taps, rows, j, next_even, next_odd);
    store(h0 * after(even, next_even) + h1 * odd + h2 * even + h3 * before(left, odd), to);
    left = odd;
    even = next_even;
    odd = next_odd;
  }
}

// Output rows [begin, end), numbered over all planes: row n is computed from input rows near n / 2 (up) or 2 n (down).
SSF_HD void four_taps_up(const FourTaps& op, int64_t begin, int64_t end) {
  const int64_t height = 2 * op.height, line = op.width * op.inner;
  const float *h = op.column_taps, odd[2] = {h[0], h[2]}, even[2] = {h[1], h[3]},
              both[2][2] = {{h[0], h[2]}, {h[1], h[3]}};
  for (int64_t row = begin, y = begin % height; row < end;) {
    const float* near = op.x + row / 2 * line;
    const float* above = y % 2 ? near : y > 0 ? near - line : op.zeros;
    const float* below = y % 2 == 0 ? near : y + 1 < height ? near + line : op.zeros;
    float* to = op.out + 2 * row * line;
    const bool pair = op.inner > 1 && y % 2 && y + 1 < height && row + 1 < end;
    if (op.inner == 1)
      up_line(op, above, below, y % 2 ? odd : even, to);
    else if (pair)
      up_pixels<2>(op, above, below, both, to);
    else
      up_pixels<1>(op, above, below, {{h[1 - y % 2], h[3 - y % 2]}}, to);
    row += pair ? 2 : 1, y += pair ? 2 : 1;
    if (y == height) y = 0;
  }
}

SSF_HD void four_taps_down(const FourTaps& op, int64_t begin, int64_t end) {
  const int64_t height = op.height / 2, line = op.width * op.inner;
  for (int64_t row = begin, y = begin % height; row < end; ++row) {
    const float* near = op.x + 2 * row * line;
    const float* const rows[4] = {y + 1 < height ? near + 2 * line : op.zeros, near + line, near,
                                  y > 0 ? near - line : op.zeros};
    float* to = op.out + row * line / 2;
    if (op.inner > 1)
      down_pixels(op, rows, to);
    else
      op.width % 16 == 0 ? down_line<Eight>(op, rows, to) : down_line<Four>(op, rows, to);
    if (++y == height) y = 0;
  }
}

// Returns whether the kernel supports this resampling.
inline bool four_taps_fit(const FirResample& op) {
  const bool centred = op.taps == 4 && op.offset == (op.up ? 1 : 2);
  return centred && (op.inner % 8 == 0 || (op.inner == 1 && op.width % 8 == 0));
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
// Means and sums of squared deviations, from sums of differences from a pivot near the mean, so that no digits are lost
// if the mean is far from zero. Sums are float32 within a chunk and float64 over chunks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/element.h"

namespace ssf::cpu {

struct Moments {
  double mean = 0, squares = 0;  // squares: the sum of the squared deviations from the mean

  // Computes the moments from sums of differences from the pivot and of their squares.
  [[gnu::always_inline]] inline void finish(double pivot, double count) {
    const double apart = mean / count;
    mean = pivot + apart;
    squares = std::max(0.0, squares - apart * apart * count);
  }
};

constexpr int64_t kChunk = 256;  // rows that are summed in float32
constexpr int64_t kLanes = 32;   // neighbouring values of one set that are summed separately

// Adds the differences of `count` rows from the pivots, and their squares, lane by lane; rows are `stride` apart.
template <class T>
[[gnu::always_inline]] inline void add_rows(const T* __restrict rows, int64_t count, int64_t stride, int64_t lanes,
                                            const float* __restrict pivot, float* __restrict sum,
                                            float* __restrict square) {
  int64_t row = 0;
  // Four rows at a time, so that the sums are read and written a quarter as often.
  for (; row + 4 <= count; row += 4) {
    const T *r0 = rows + row * stride, *r1 = r0 + stride, *r2 = r1 + stride, *r3 = r2 + stride;
    for (int64_t i = 0; i < lanes; ++i) {
      const float d0 = widen(r0[i]) - pivot[i], d1 = widen(r1[i]) - pivot[i];
      const float d2 = widen(r2[i]) - pivot[i], d3 = widen(r3[i]) - pivot[i];
      sum[i] += (d0 + d1) + (d2 + d3);
      square[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  }
  for (; row < count; ++row) {
    for (int64_t i = 0; i < lanes; ++i) {
      const float d = widen(rows[row * stride + i]) - pivot[i];
      sum[i] += d;
      square[i] += d * d;
    }
  }
}

// The sum in float64, in four lanes.
[[gnu::always_inline]] inline double total(const float* values, int64_t count) {
  double lanes[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int lane = 0; lane < 4; ++lane) lanes[lane] += values[i + lane];
  for (; i < count; ++i) lanes[0] += values[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// The moments of one contiguous set.
template <class T>
[[gnu::always_inline]] inline Moments moments_of(const T* values, int64_t count) {
  float pivot[kLanes], sum[kLanes], square[kLanes];
  std::fill_n(pivot, kLanes, widen(values[0]));
  Moments moments;
  for (int64_t first = 0; first < count; first += kChunk * kLanes) {
    const int64_t n = std::min(kChunk * kLanes, count - first), rows = n / kLanes;
    std::fill_n(sum, kLanes, 0.0f);
    std::fill_n(square, kLanes, 0.0f);
    add_rows(values + first, rows, kLanes, kLanes, pivot, sum, square);
    add_rows(values + first + rows * kLanes, 1, 0, n % kLanes, pivot, sum, square);
    moments.mean += total(sum, kLanes);
    moments.squares += total(square, kLanes);
  }
  moments.finish(pivot[0], static_cast<double>(count));
  return moments;
}

}  // namespace ssf::cpu

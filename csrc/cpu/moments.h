// SPDX-License-Identifier: Apache-2.0
// Mean and sum of squared deviations of many channels at once, by shifted sums: the shift is a channel's first value,
// so that a mean far from zero costs no digits. float32 over a chunk, float64 over the chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/element.h"

namespace ssf::cpu {

class Moments {
 public:
  static constexpr int64_t kChunk = 256;  // rows that are summed in float32
  static constexpr int64_t kLanes = 32;   // neighbours of one set that are summed apart

  std::vector<double> mean, squares;  // of each set; squares: the sum of the squared deviations from its mean

  explicit Moments(int64_t sets) : mean(sets), squares(sets), sums_(3 * std::max(sets, kLanes)) {}

  // Adds at most kChunk rows of one number a set each, `stride` elements apart.
  template <class T>
  [[gnu::always_inline]] inline void add_rows(const T* rows, int64_t count, int64_t stride) {
    const auto sets = static_cast<int64_t>(mean.size());
    float *pivot = sums_.data(), *sum = pivot + sets, *square = sum + sets;
    if (count_ == 0) {
      for (int64_t i = 0; i < sets; ++i) pivot[i] = widen(rows[i]);
    }
    std::fill_n(sum, 2 * sets, 0.0f);
    accumulate(rows, count, stride, sets, pivot, sum, square);
    for (int64_t i = 0; i < sets; ++i) {
      mean[i] += sum[i];
      squares[i] += square[i];
    }
    count_ += count;
  }

  // After the last rows: turns the sums into the moments.
  [[gnu::always_inline]] inline void finish_rows() {
    for (size_t i = 0; i < mean.size(); ++i) finish(i, sums_[i], static_cast<double>(count_));
  }

  // The moments of one set, whose numbers are neighbours.
  template <class T>
  [[gnu::always_inline]] inline void set_neighbours(int64_t set, const T* values, int64_t count) {
    float *pivot = sums_.data(), *sum = pivot + kLanes, *square = sum + kLanes;
    const int64_t lanes = std::min(kLanes, count);
    std::fill_n(pivot, lanes, widen(values[0]));
    for (int64_t first = 0; first < count; first += kChunk * kLanes) {
      const int64_t n = std::min(kChunk * kLanes, count - first), rows = n / kLanes;
      std::fill_n(sum, 2 * kLanes, 0.0f);
      accumulate(values + first, rows, kLanes, kLanes, pivot, sum, square);
      accumulate(values + first + rows * kLanes, 1, 0, n % kLanes, pivot, sum, square);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        mean[set] += sum[lane];
        squares[set] += square[lane];
      }
    }
    finish(set, pivot[0], static_cast<double>(count));
  }

 private:
  template <class T>
  [[gnu::always_inline]] static inline void accumulate(const T* __restrict rows, int64_t count, int64_t stride,
                                                       int64_t lanes, const float* __restrict pivot,
                                                       float* __restrict sum, float* __restrict square) {
    int64_t row = 0;
    // Four rows at a time: the sums are read and written a quarter as often.
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

  [[gnu::always_inline]] inline void finish(int64_t set, float pivot, double count) {
    const double shifted = mean[set] / count;
    mean[set] = pivot + shifted;
    squares[set] = std::max(0.0, squares[set] - shifted * shifted * count);
  }

  std::vector<float> sums_;
  int64_t count_ = 0;
};

}  // namespace ssf::cpu

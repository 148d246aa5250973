// SPDX-License-Identifier: Apache-2.0
// The kernel against the formula in double, in both layouts, for every number of taps and a split into two ranges.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "cpu/fir_resample.h"
#include "tests/check.h"

namespace {

using ssf::cpu::FirResample;
using ssf::cpu::Scalar;

// The weight of input i in output n along an axis.
double weight(const FirResample& op, const double* taps, int64_t n, int64_t i) {
  const int64_t tap = op.up ? n + op.offset - 2 * i : 2 * n + op.offset - i;
  return tap >= 0 && tap < op.taps ? taps[tap] : 0.0;
}

double exact(const FirResample& op, const std::vector<double>& x, int64_t plane, int64_t y, int64_t column, int64_t c) {
  double sum = 0;
  for (int64_t i = 0; i < op.height; ++i)
    for (int64_t j = 0; j < op.width; ++j)
      sum += weight(op, op.column_taps, y, i) * weight(op, op.row_taps, column, j) *
             x[((plane * op.height + i) * op.width + j) * op.inner + c];
  return sum;
}

// The largest error, as a multiple of the rounding bound of a sum of products.
template <class T>
double error(const FirResample& op, Scalar scalar, double unit) {
  std::vector<double> x(op.planes * op.height * op.width * op.inner);
  std::srand(1);
  for (double& value : x) value = static_cast<float>(std::rand() / static_cast<double>(RAND_MAX) - 0.5);
  const std::vector<T> input(x.begin(), x.end());
  const int64_t rows = op.planes * op.out_height(), line = op.out_width() * op.inner;
  std::vector<T> whole(rows * line + 1, T{-99}), parts(rows * line);
  ssf::cpu::fir_resample(op, scalar, input.data(), whole.data(), 0, rows);
  ssf::test::check(whole[rows * line] == T{-99}, "nothing is written past the end");
  ssf::cpu::fir_resample(op, scalar, input.data(), parts.data(), 0, rows / 3);
  ssf::cpu::fir_resample(op, scalar, input.data(), parts.data(), rows / 3, rows);
  whole.pop_back();
  ssf::test::check(parts == whole, "two ranges give the same tensor");

  double worst = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t e = 0; e < line; ++e) {
      const double value = exact(op, x, row / op.out_height(), row % op.out_height(), e / op.inner, e % op.inner);
      worst = std::max(worst, std::fabs(static_cast<double>(whole[row * line + e]) - value));
    }
  return worst / (2 * op.taps * unit);
}

}  // namespace

int main() {
  for (int taps = 2; taps <= ssf::cpu::kMaxTaps; ++taps) {
    for (int offset = 0; offset < taps; ++offset) {
      for (const bool up : {true, false}) {
        // Four taps have special kernels for rows, and for columns, that consist of whole vectors.
        std::vector<std::array<int64_t, 2>> columns{{6, 1}, {6, 2}, {6, 3}, {6, 9}, {6, 40}};
        if (taps == 4) columns.insert(columns.end(), {{8, 1}, {16, 1}, {24, 1}, {32, 1}, {2, 8}, {6, 16}});
        for (const auto& [width, inner] : columns) {
          FirResample op{2, 4, width, inner, up, taps, offset, {}, {}};
          for (int t = 0; t < taps; ++t) {
            op.column_taps[t] = (t % 3 + 1.0) / taps;
            op.row_taps[t] = (t % 4 - 1.0) / taps;
          }
          ssf::test::check(error<float>(op, Scalar::kFloat, 0x1p-24) <= 1, "float agrees with the formula");
          ssf::test::check(error<double>(op, Scalar::kDouble, 0x1p-53) <= 1, "double agrees with the formula");
        }
      }
    }
  }
  return ssf::test::failures;
}

// SPDX-License-Identifier: Apache-2.0
// A filter that is 1 in the middle and 0 elsewhere copies the input. For any filter, tiles and panels computed in parts
// equal those computed at once, bit for bit, and nothing is written past the end.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cpu/winograd_convolution.h"
#include "tests/check.h"

namespace {

using ssf::cpu::kWinogradPanel;
using ssf::cpu::kWinogradPoints;
using ssf::cpu::WinogradConvolution;

constexpr int64_t kBatch = 3, kHeight = 9, kWidth = 6, kChannels = 32;

std::vector<float> noise(int64_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = static_cast<float>(std::rand() / static_cast<double>(RAND_MAX) - 0.5);
  return values;
}

// G g G^T of the copying filter: the outer product of G's second column, p / N(p) or 0 at infinity, with itself.
std::vector<float> copying_weights() {
  const double points[] = {0, 0.6875, -0.6875, 1.5, -1.5};
  double column[6] = {};
  for (int i = 0; i < 5; ++i) {
    double product = 1;
    for (int j = 0; j < 5; ++j) product *= i == j ? 1 : points[i] - points[j];
    column[i] = points[i] / product;
  }
  std::vector<float> u(kWinogradPoints * kChannels * kChannels);
  for (int64_t point = 0; point < kWinogradPoints; ++point)
    for (int64_t c = 0; c < kChannels; ++c)
      u[((point * (kChannels / kWinogradPanel) + c / kWinogradPanel) * kChannels + c) * kWinogradPanel +
        c % kWinogradPanel] = static_cast<float>(column[point / 6] * column[point % 6]);
  return u;
}

}  // namespace

int main() {
  std::srand(1);
  const int64_t size = kBatch * kHeight * kWidth * kChannels, panels = kChannels / kWinogradPanel;
  const std::vector<float> x = noise(size), bias = noise(kChannels), residual = noise(size);
  std::vector<float> y(size + 1, -99.0f), parts(size);
  WinogradConvolution<float> op{x.data(), nullptr, bias.data(), residual.data(), y.data(), 0.5f,
                                kBatch,   kHeight, kWidth,      kChannels,       kChannels};

  const std::vector<float> copying = copying_weights();
  op.u = copying.data();
  ssf::cpu::winograd_convolution(op, 0, op.tiles(), 0, panels);
  double worst = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double exact = static_cast<double>(x[i]) + bias[i % kChannels] + 0.5 * residual[i];
    worst = std::fmax(worst, std::fabs(y[i] - exact));
  }
  ssf::test::check(worst < 1e-6, "the copying filter copies its input");
  ssf::test::check(y[size] == -99.0f, "nothing is written past the end");

  const std::vector<float> any = noise(kWinogradPoints * kChannels * kChannels);
  op.u = any.data();
  ssf::cpu::winograd_convolution(op, 0, op.tiles(), 0, panels);
  op.y = parts.data();
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t tile = 0; tile < op.tiles(); tile += 5)
      ssf::cpu::winograd_convolution(op, tile, std::min(tile + 5, op.tiles()), panel, panel + 1);
  y.pop_back();
  ssf::test::check(parts == y, "parts give the same image");
  return ssf::test::failures;
}

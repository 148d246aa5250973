// SPDX-License-Identifier: Apache-2.0
// The conversions of the 16-bit types are exact or correctly rounded; SiLU is within 2.5 ulp; the norm agrees with
// float64 for any division of the groups, and nothing is written past the end.
#include <algorithm>
#include <vector>

#include "cpu/group_norm_silu.h"
#include "cpu/group_norm_silu_gradients.h"
#include "cpu/silu.h"
#include "tests/check.h"

namespace {

using ssf::test::check;

// Every number of a 16-bit type is the same after conversion to float and back, and midpoints are rounded to even.
template <class T>
bool round_trip(uint32_t infinity) {
  bool ok = true;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const float wide = ssf::cpu::widen(value);
    T back;
    ssf::cpu::narrow(wide, back);
    ok &= (bits & 0x7fff) > infinity ? wide != wide && (back.bits & 0x7fff) > infinity : back.bits == bits;
    if ((bits & 0x7fff) + 1 >= infinity) continue;
    const float next = ssf::cpu::widen(T{static_cast<uint16_t>(bits + 1)});
    ssf::cpu::narrow(wide + (next - wide) / 2, back);
    ok &= back.bits == bits + bits % 2;
    ssf::cpu::narrow(std::nextafter(wide + (next - wide) / 2, next), back);
    ok &= back.bits == bits + 1;
  }
  return ok;
}

double silu_error() {
  double worst = 0;
  for (float z = -80.0f; z < 80.0f; z += 0.00731f) {
    const double exact = z / (1.0 + std::exp(-static_cast<double>(z)));
    worst = std::max(worst, ssf::test::ulps(ssf::cpu::silu_of_negative(-z, ssf::cpu::exp_bound), exact));
  }
  return worst;
}

constexpr int64_t kChannels = 12, kPixels = 35, kGroups = 3;

struct Image {
  std::vector<float> x = std::vector<float>(kChannels * kPixels), y = std::vector<float>(kChannels * kPixels + 1, -99),
                     statistics = std::vector<float>(2 * kGroups);
  std::vector<float> weight = std::vector<float>(kChannels), bias = std::vector<float>(kChannels);
  ssf::cpu::GroupNormSilu<float> op{};

  explicit Image(bool channels_last) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = 5.0f + static_cast<float>(i * 7919 % 1013) / 500.0f;
    for (int64_t c = 0; c < kChannels; ++c) {
      weight[c] = 0.5f + 0.1f * static_cast<float>(c);
      bias[c] = 0.3f - 0.05f * static_cast<float>(c);
    }
    op.x = x.data();
    op.y = y.data();
    op.weight = weight.data();
    op.bias = bias.data();
    op.statistics = statistics.data();
    op.channels = kChannels;
    op.pixels = kPixels;
    op.groups = kGroups;
    op.channels_last = channels_last;
    op.eps = 1e-6f;
    op.scale = 1;
    op.silu = true;
  }

  int64_t at(int64_t c, int64_t pixel) const { return op.channels_last ? pixel * kChannels + c : c * kPixels + pixel; }

  double worst_error() const {
    double worst = 0;
    constexpr int64_t size = kChannels / kGroups;
    for (int64_t c = 0; c < kChannels; ++c) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < size * kPixels; ++i) mean += x[at(c / size * size + i / kPixels, i % kPixels)];
      mean /= size * kPixels;
      for (int64_t i = 0; i < size * kPixels; ++i) {
        variance += std::pow(x[at(c / size * size + i / kPixels, i % kPixels)] - mean, 2) / (size * kPixels);
      }
      for (int64_t p = 0; p < kPixels; ++p) {
        const double z = (x[at(c, p)] - mean) / std::sqrt(variance + 1e-6) * weight[c] + bias[c];
        worst = std::max(worst, std::fabs(y[at(c, p)] - z / (1 + std::exp(-z))));
      }
    }
    return worst;
  }
};

}  // namespace

int main() {
  check(round_trip<ssf::cpu::BFloat16>(0x7f80), "bfloat16 to float and back");
  check(round_trip<ssf::cpu::Half>(0x7c00), "float16 to float and back");
  check(silu_error() <= 2.5, "SiLU within 2.5 ulp");
  for (const bool channels_last : {false, true}) {
    Image whole(channels_last), parts(channels_last);
    ssf::cpu::group_norm_silu(whole.op, 0, 0, kGroups);
    check(whole.worst_error() < 2e-6, "the norm agrees with float64");
    check(whole.y.back() == -99, "nothing is written past the end");
    for (int64_t group = 0; group < kGroups; ++group) ssf::cpu::group_norm_silu(parts.op, 0, group, group + 1);
    check(parts.y == whole.y && parts.statistics == whole.statistics, "groups one by one give the same image");

    Image joined(channels_last);
    const std::vector<float> residual(joined.x.size());
    std::vector<float> h(joined.x.size() + 1, -99.0f);
    joined.op.residual = residual.data();
    joined.op.joined = h.data();
    ssf::cpu::group_norm_silu(joined.op, 0, 0, kGroups);
    check(std::equal(joined.x.begin(), joined.x.end(), h.begin()) && h.back() == -99, "all of h is written, no more");
    check(joined.y == whole.y, "a residual of zeros does not change the norm");

    // The norm does not change along a tangent that is constant over a group, nor along the image itself.
    std::vector<float> ones(whole.x.size(), 1.0f), tangent(whole.x.size(), -99.0f);
    ssf::cpu::GroupNormGradient<float> op{};
    op.source = whole.x.data();
    op.change = ones.data();
    op.statistics = whole.statistics.data();
    op.weight = whole.weight.data();
    op.bias = whole.bias.data();
    op.out = tangent.data();
    op.channels = kChannels;
    op.pixels = kPixels;
    op.groups = kGroups;
    op.channels_last = channels_last;
    op.scale = op.out_scale = 1;
    op.silu = true;
    ssf::cpu::group_norm_silu_tangent(op, 0, 0, kGroups);
    double largest = 0;
    for (const float value : tangent) largest = std::max(largest, static_cast<double>(std::fabs(value)));
    op.change = whole.x.data();
    ssf::cpu::group_norm_silu_tangent(op, 0, 0, kGroups);
    for (const float value : tangent) largest = std::max(largest, static_cast<double>(std::fabs(value)));
    check(largest < 2e-5, "the tangents of shift and scale are zero");
  }
  return ssf::test::failures;
}

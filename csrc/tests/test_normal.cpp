// SPDX-License-Identifier: Apache-2.0
// The vectorised kernel equals the core formula whatever the length, and any split into ranges gives the same field.
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/box_muller.h"
#include "core/philox.h"
#include "cpu/normal.h"
#include "tests/check.h"

namespace {

constexpr uint64_t kSeed = 0xfedcba9876543210, kSample = 0x123456789;
constexpr uint32_t kDraw = 3;
constexpr ssf::cpu::Field kPrecise{kSeed, kSample, kDraw, true}, kFast{kSeed, kSample, kDraw, false};

float element(int64_t i, bool precise) {
  const ssf::Words words = ssf::philox(ssf::noise_counter(static_cast<uint32_t>(i / 4), kDraw, kSample), kSeed);
  const int first = i % 4 / 2 * 2;
  const auto transform = precise ? &ssf::box_muller : &ssf::cpu::box_muller_fast;
  const ssf::NormalPair pair = transform(words.w[first], words.w[first + 1]);
  return i % 2 ? pair.sine : pair.cosine;
}

void test_kernel(const ssf::cpu::Field& described) {
  for (const int64_t n : {0, 1, 3, 4, 63, 127, 128, 129, 500, 768}) {
    std::vector<float> field(n + 1, -99.0f);
    ssf::cpu::normal(field.data(), 0, n, described);
    bool equal = true;
    for (int64_t i = 0; i < n; ++i) equal &= field[i] == element(i, described.precise);
    ssf::test::check(equal, "the kernel agrees with the formula bit for bit");
    ssf::test::check(field[n] == -99.0f, "nothing is written past the end");

    std::vector<float> parts(n);
    const int64_t cut = n / 8 * 4;
    ssf::cpu::normal(parts.data(), 0, cut, described);
    ssf::cpu::normal(parts.data(), cut, n, described);
    field.pop_back();
    ssf::test::check(parts == field, "two ranges make the same field");
  }
}

// How far the fast form is from the precise one, over the radius: of 2^22 pairs, and at the ends of both words.
void test_fast_form() {
  float wide = 0, narrow = 0;  // at radii above 1 over the radius, elsewhere times it
  const auto compare = [&](uint32_t radius, uint32_t angle) {
    const ssf::NormalPair fast = ssf::cpu::box_muller_fast(radius, angle), exact = ssf::box_muller(radius, angle);
    const float r = std::hypot(exact.cosine, exact.sine);
    const float away = std::fmax(std::fabs(fast.cosine - exact.cosine), std::fabs(fast.sine - exact.sine));
    if (r > 1)
      wide = std::fmax(wide, away / r);
    else
      narrow = std::fmax(narrow, away * r);
  };
  for (uint32_t i = 0; i < 1u << 22; ++i) compare(i * 2654435769u, i * 2246822519u);
  for (uint32_t i = 0; i < 1u << 16; ++i)
    for (const uint32_t radius : {i, ~i, i << 8, ~(i << 8)})
      for (const uint32_t angle : {i * 2654435769u, i, ~i, 0x80000000u + i, 0x20000000u - i}) compare(radius, angle);
  std::printf("fast form: %.3g of the radius, %.3g over it near 0\n", wide, narrow);
  ssf::test::check(wide < 0x1p-22f, "above a radius of 1 the fast form is within 2^-22 of it");
  ssf::test::check(narrow < 0x1p-22f, "below it is within 2^-22 over the radius");
}

}  // namespace

int main() {
  test_kernel(kPrecise);
  test_kernel(kFast);
  test_fast_form();
  return ssf::test::failures;
}

// SPDX-License-Identifier: Apache-2.0
// The transform against long double: all pairs of corner words, then radius and angle words at a fixed stride.
#include <algorithm>

#include "core/box_muller.h"
#include "tests/check.h"

namespace {

double worst(uint32_t radius_word, uint32_t angle_word) {
  const long double pi = 3.14159265358979323846264338327950288L;
  const long double u0 = ((radius_word >> 8) + 0.5L) * 0x1p-24L, u1 = ((angle_word >> 8) + 0.5L) * 0x1p-24L;
  const long double angle = 2 * pi * (u1 > 0.5L ? u1 - 1 : u1), radius = std::sqrt(-2 * std::log(u0));
  const auto [cosine, sine] = ssf::box_muller(radius_word, angle_word);
  return std::max(ssf::test::ulps(cosine, radius * std::cos(angle)), ssf::test::ulps(sine, radius * std::sin(angle)));
}

}  // namespace

int main() {
  const uint32_t corners[] = {0,          0xff,       0x100,      0x1fffffff, 0x20000000, 0x3fffffff, 0x40000000,
                              0x7fffffff, 0x80000000, 0x9fffffff, 0xa0000000, 0xbfffffff, 0xc0000000, 0xffffffff};
  double error = 0;
  for (const uint32_t radius : corners)
    for (const uint32_t angle : corners) error = std::max(error, worst(radius, angle));
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 9973 << 2) {
    error = std::max(error, worst(static_cast<uint32_t>(word), 0x12345678));
    error = std::max(error, worst(0x12345678, static_cast<uint32_t>(word)));
  }
  std::printf("largest error %.4f ulp\n", error);
  ssf::test::check(error <= 1.7, "within 1.7 ulp");
  return ssf::test::failures;
}

// SPDX-License-Identifier: Apache-2.0
// Box-Muller on two Philox words, the precise form: evaluated in double, rounded to float once.
//
// u = ((word >> 8) + 1/2) 2^-24; normals r cos(2 pi u1) and r sin(2 pi u1) with r = sqrt(-2 ln u0). There is no branch
// and no library call but sqrt, so that a loop over words becomes vector instructions; the series stop where their
// relative error is below 1e-11, far under float's 6e-8.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace ssf {

struct NormalPair {
  float cosine, sine;
};

// ln u for normal double u > 0: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)).
SSF_HD double natural_log(double u) {
  uint64_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  const uint64_t mantissa_bits = (bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000;
  double m;
  std::memcpy(&m, &mantissa_bits, sizeof m);
  const bool upper = m >= 1.4142135623730951;
  m = upper ? 0.5 * m : m;
  const int exponent = static_cast<int>(bits >> 52) - 1023 + (upper ? 1 : 0);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  const double series =
      1.0 + z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13))))));
  return exponent * 0.6931471805599453 + 2.0 * s * series;
}

// sin x and cos x for |x| <= pi / 4.
SSF_HD double sine_near_zero(double x) {
  const double z = x * x;
  return x * (1.0 + z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800))))));
}
SSF_HD double cosine_near_zero(double x) {
  const double z = x * x, head = 1.0 + z * (-1.0 / 2 + z * (1.0 / 24 + z * (-1.0 / 720)));
  return head + z * z * z * z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600)));
}

SSF_HD NormalPair box_muller(uint32_t radius_word, uint32_t angle_word) {
  const double u = (static_cast<int32_t>(radius_word >> 8) + 0.5) * 0x1p-24;
  const double radius = std::sqrt(-2.0 * natural_log(u));

  // 2 pi u1 = quarter * pi / 2 + x with |x| <= pi / 4, split on integers and so exactly.
  const int32_t turn = static_cast<int32_t>(angle_word >> 8);
  const int32_t quarter = (turn + (1 << 21)) >> 22;
  const double x = ((turn - (quarter << 22)) + 0.5) * (6.283185307179586 * 0x1p-24);
  const double c = cosine_near_zero(x), s = sine_near_zero(x);
  const double cosine = quarter & 1 ? s : c;
  const double sine = quarter & 1 ? c : s;
  return {static_cast<float>(radius * ((quarter + 1) & 2 ? -cosine : cosine)),
          static_cast<float>(radius * (quarter & 2 ? -sine : sine))};
}

}  // namespace ssf

// SPDX-License-Identifier: Apache-2.0
// Box-Muller on two Philox words, the precise form: float arithmetic only, and the same bits on every machine.
//
// u = ((word >> 8) + 1/2) 2^-24; normals r cos(2 pi u1) and r sin(2 pi u1) with r = sqrt(-2 ln u0). Every intermediate
// result carries what its rounding lost ("low" parts), so that the normals are within 0.9 ulp. There is no branch and
// no library call but sqrt, so that a loop over words becomes vector instructions. The polynomials are minimax fits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace ssf {

struct NormalPair {
  float cosine, sine;
};

// An unevaluated sum, |low| far below |high|.
struct Split {
  float high, low;
};

SSF_HD float fused(float a, float b, float c) { return std::fma(a, b, c); }

SSF_HD uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

SSF_HD float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// -2 ln u of a word. u = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)]; above 1/2, where u has one bit more
// than a float holds, f comes from 1 - u, which is exact.
SSF_HD Split minus_two_log(uint32_t word) {
  const uint32_t count = word >> 8;
  const bool upper = count >= (1u << 23);
  const float y = static_cast<float>(static_cast<int32_t>(upper ? 0xFFFFFF - count : count)) + 0.5f;  // exact

  const uint32_t bits = float_bits(y);
  const float mantissa = bits_float((bits & 0x007FFFFF) | 0x3F800000);
  const bool large = mantissa > 1.41421356f;
  const float lower_f = (large ? 0.5f * mantissa : mantissa) - 1.0f;
  const int lower_exponent = static_cast<int>(bits >> 23) - (127 + 24) + (large ? 1 : 0);

  const float v = y * 0x1p-24f;
  const bool near_one = v < 0.29289322f;
  const float f = upper ? (near_one ? -v : fused(-2.0f, v, 1.0f)) : lower_f;
  const float exponent = static_cast<float>(upper ? (near_one ? 0 : -1) : lower_exponent);

  float p = 0.0691542849f;
  p = fused(p, f, -0.117898367f);
  p = fused(p, f, 0.118729644f);
  p = fused(p, f, -0.123843424f);
  p = fused(p, f, 0.142186597f);
  p = fused(p, f, -0.16669251f);
  p = fused(p, f, 0.200022265f);
  p = fused(p, f, -0.249999866f);
  p = fused(p, f, 0.333333105f);
  // ln(1 + f) = f - f^2 / 2 + f^3 p.
  const float half_f = 0.5f * f, square = half_f * f, square_low = fused(half_f, f, -square);
  const float head = f - square, head_low = (f - head) - square;
  const float tail = fused(2.0f * square * f, p, head_low - square_low);
  // ln 2 in two parts, the first so short that its multiples are exact.
  const float scale = exponent * 0.693359375f, sum = scale + head, sum_low = head - (sum - scale);
  const float low = tail + fused(exponent, -2.12194440e-4f, sum_low);
  const float high = sum + low;
  return {-2.0f * high, -2.0f * (low - (high - sum))};
}

SSF_HD Split square_root(Split a) {
  const float root = std::sqrt(a.high);
  // Half of the remainder over the root; a rough reciprocal root is enough for so small a part.
  const float reciprocal = bits_float(0x5F3759DF - (float_bits(a.high) >> 1));
  return {root, 0.5f * reciprocal * (fused(-root, root, a.high) + a.low)};
}

// r (unit.high + unit.low), rounded once.
SSF_HD float product(Split r, Split unit) {
  const float p = r.high * unit.high;
  return p + fused(r.high, unit.low, fused(r.low, unit.high, fused(r.high, unit.high, -p)));
}

SSF_HD NormalPair box_muller(uint32_t radius_word, uint32_t angle_word) {
  const Split radius = square_root(minus_two_log(radius_word));

  // 2 pi u1 = quarter * pi / 2 + x with |x| <= pi / 4, split on integers and so exactly.
  const int32_t turn = static_cast<int32_t>(angle_word >> 8);
  const int32_t quarter = (turn + (1 << 21)) >> 22;
  const float count = static_cast<float>(turn - (quarter << 22)) + 0.5f;
  const float x = count * 3.74507039e-07f;  // 2 pi 2^-24, and what it lacks:
  const float x_low = fused(count, -1.04216075e-14f, fused(count, 3.74507039e-07f, -x));

  const float z = x * x, half_z = 0.5f * z, head = 1.0f - half_z, head_low = (1.0f - head) - half_z;
  const float cosine_series = fused(fused(2.44327748e-05f, z, -0.00138873130f), z, 0.0416666456f);
  const float sine_series = fused(fused(-0.000195172994f, z, 0.00833217800f), z, -0.166666552f);
  const float z_low = fused(x, x, -z);
  const Split c{head, fused(z * z, cosine_series, fused(-x, x_low, fused(-0.5f, z_low, head_low)))};
  const Split s{x, fused(z * x, sine_series, x_low * head)};

  const float even = product(radius, c), odd = product(radius, s);
  const float cosine = quarter & 1 ? odd : even, sine = quarter & 1 ? even : odd;
  return {(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

}  // namespace ssf

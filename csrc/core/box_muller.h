// SPDX-License-Identifier: Apache-2.0
// The precise form of Box-Muller on two Philox words: float arithmetic only, with the same bits on every machine.
//
// u = ((word >> 8) + 1/2) 2^-24; the normals are r cos(2 pi u1) and r sin(2 pi u1) with r = sqrt(-2 ln u0).
// Intermediate results carry their rounding errors ("low" parts), so that the normals are within 1.7 ulp. There is no
// branch and no library call except sqrt, so that loops over words are vectorised; the polynomials are minimax.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace ssf {

struct NormalPair {
  float cosine, sine;
};

// An unevaluated sum with |low| much smaller than |high|.
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

// -2 ln u of a word, within 1.1 ulp. u = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)). u has 25 bits, one more
// than a float: `lost` is the rounding error of the conversion, for u above 1/2, in units of 2^-25.
SSF_HD float minus_two_log(uint32_t word) {
  const auto count = static_cast<int32_t>(word >> 7 | 1);
  const float y = static_cast<float>(count);
  const float lost = static_cast<float>(count - static_cast<int32_t>(y));

  const auto bits = static_cast<int32_t>(float_bits(y));
  const int32_t power = (bits - 0x3F3504F3) >> 23;  // the bits of sqrt(1/2)
  const float f = bits_float(static_cast<uint32_t>(bits - (power << 23))) - 1.0f;
  const float exponent = static_cast<float>(power - 25);

  float p = 0.0691542849f;
  p = fused(p, f, -0.117898367f);
  p = fused(p, f, 0.118729644f);
  p = fused(p, f, -0.123843424f);
  p = fused(p, f, 0.142186597f);
  p = fused(p, f, -0.16669251f);
  p = fused(p, f, 0.200022265f);
  p = fused(p, f, -0.249999866f);
  p = fused(p, f, 0.333333105f);
  // ln(1 + f) = f - f^2 / 2 + f^3 p. The lost part adds lost / u; if lost is not 0, 1 / u is close to
  // (1 - f) 2^-exponent, and the exponent is 0 or -1.
  const float square = f * f, inverse = fused(exponent, f, 1.0f - f) - exponent;
  const float tail = fused(square * f, p, lost * (0x1p-25f * inverse));
  const float half = fused(-0.5f, square, tail);
  // ln 2 in two parts; the first is so short that its multiples are exact.
  const float low = fused(exponent, -2.12194440e-4f, half);
  const float head = fused(exponent, 0.693359375f, f);
  return -2.0f * (head + (low + (fused(exponent, 0.693359375f, -head) + f)));
}

SSF_HD Split square_root(float a) {
  const float root = std::sqrt(a);
  // Half of the remainder divided by the root; for this small correction an approximate reciprocal root suffices.
  const float half_reciprocal = bits_float(0x5EB759DF - (float_bits(a) >> 1));
  return {root, half_reciprocal * fused(-root, root, a)};
}

// The product of two sums, rounded once.
SSF_HD float product(Split r, Split unit) {
  const float p = r.high * unit.high;
  return p + fused(r.high, unit.low, fused(r.low, unit.high, fused(r.high, unit.high, -p)));
}

// The two coordinates on the circle with this squared radius, at the angle of a word.
SSF_HD NormalPair on_circle(float squared_radius, uint32_t angle_word) {
  const Split radius = square_root(squared_radius);

  // 2 pi u1 = quarter * pi / 2 + x with |x| <= pi / 4; the split of integers is exact.
  const uint32_t turn = angle_word + (1u << 29), quarter = turn >> 30;
  const float count = static_cast<float>(static_cast<int32_t>(turn >> 8 & 0x3FFFFF) - (1 << 21)) + 0.5f;
  const float x = count * 3.74507039e-07f;  // 2 pi 2^-24, and its rounding error:
  const float x_low = fused(count, -1.04216075e-14f, fused(count, 3.74507039e-07f, -x));

  const float z = x * x, head = fused(-0.5f, z, 1.0f), head_low = fused(-0.5f, z, 1.0f - head);
  const float cosine_series = fused(fused(2.44327748e-05f, z, -0.00138873130f), z, 0.0416666456f);
  const float sine_series = fused(fused(-0.000195172994f, z, 0.00833217800f), z, -0.166666552f);
  const Split c{head, fused(z * z, cosine_series, fused(-x, x_low, head_low))};
  const Split s{x, fused(z * x, sine_series, x_low)};

  const float even = product(radius, c), odd = product(radius, s);
  // Quarter by quarter the cosine is even, -odd, -even, odd, and the sine odd, even, -odd, -even.
  const float cosine = quarter & 1 ? odd : even, sine = quarter & 1 ? even : odd;
  return {bits_float(float_bits(cosine) ^ ((quarter + 1) << 30 & 0x80000000)),
          bits_float(float_bits(sine) ^ (quarter << 30 & 0x80000000))};
}

SSF_HD NormalPair box_muller(uint32_t radius_word, uint32_t angle_word) {
  return on_circle(minus_two_log(radius_word), angle_word);
}

}  // namespace ssf

// SPDX-License-Identifier: Apache-2.0
// Conversion from 16-bit types, sums in a fixed order, places of a ring buffer, and row indices.
#include <vector>

#include "core/step_table.h"
#include "cpu/network_dtype.h"
#include "cpu/sums.h"
#include "tests/check.h"

using ssf::test::check;

namespace {

float half(uint16_t bits) { return ssf::cpu::widen(ssf::cpu::Half{bits}); }
float bfloat16(uint16_t bits) { return ssf::cpu::widen(ssf::cpu::BFloat16{bits}); }

}  // namespace

int main() {
  check(half(0x3C00) == 1.0f && half(0xC500) == -5.0f, "float16: numbers");
  check(half(0x7BFF) == 65504.0f, "float16: the largest");
  check(half(0x0001) == 0x1p-24f && half(0x83FF) == -0x3FFp-24f, "subnormals");
  check(std::isinf(half(0x7C00)) && half(0xFC00) < 0, "float16: infinities");
  check(std::isnan(half(0x7E01)) && std::isnan(bfloat16(0x7FC0)), "NaN");
  check(std::signbit(half(0x8000)), "float16: minus zero");
  check(bfloat16(0x3F80) == 1.0f && bfloat16(0xC0A0) == -5.0f, "bfloat16");

  float a[64], b[64];
  double exact = 0;
  for (int i = 0; i < 64; ++i) {
    a[i] = 0.25f * i;
    b[i] = 3.0f - i;
    exact += static_cast<double>(a[i]) * b[i];
  }
  check(ssf::cpu::dot<64>(a, b) == exact, "a dot product without rounding");

  for (int32_t slot = 0; slot < 9; ++slot)
    for (int64_t length = 1; length <= 3; ++length)
      for (int k = 0; k <= 3; ++k)
        check(ssf::ring_place(slot + 3, k, length) == (slot + 3 - k) % length, "places of a ring");
  check(ssf::ring_place(0, 1, 1) == 0 && ssf::ring_place(0, 3, 2) == 1, "ring places before the first output");

  for (const int32_t slot : {INT32_MIN, INT32_MIN + 2, -100, -1, INT32_MAX})
    for (const int64_t length : {int64_t{1}, int64_t{3}, int64_t{INT32_MAX}})
      for (int k = 0; k <= 3; ++k)
        check(ssf::ring_place(slot, k, length) >= 0 && ssf::ring_place(slot, k, length) < length,
              "any slot is in the ring");

  const int64_t counter = 7;
  const ssf::RowIndex inside{&counter, true, 2, 10}, past{&counter, true, 3, 10}, fixed{nullptr, false, 4, 10};
  check(inside() == 9 && past() == 9 && fixed() == 4, "row indices are clamped to the table");
  for (const int64_t wild : {INT64_MIN, int64_t{-3}, INT64_MAX}) {
    const ssf::RowIndex row{&wild, true, 2, 10};
    check(row() == 9 && row.count() == wild, "any counter is in the table");
  }
  return ssf::test::failures;
}

// SPDX-License-Identifier: Apache-2.0
// The known answers of Random123 (kat_vectors, philox4x32 10).
#include "core/philox.h"
#include "tests/check.h"

using ssf::Words;
using ssf::test::check;

namespace {

bool equal(const Words& a, const Words& b) {
  return a.w[0] == b.w[0] && a.w[1] == b.w[1] && a.w[2] == b.w[2] && a.w[3] == b.w[3];
}

}  // namespace

int main() {
  constexpr uint32_t ones = 0xffffffff;
  check(equal(ssf::philox({{0, 0, 0, 0}}, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}), "zeros");
  check(
      equal(ssf::philox({{ones, ones, ones, ones}}, ~uint64_t{0}), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}),
      "ones");
  check(equal(ssf::philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822),
              {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}),
        "digits of pi");
  check(equal(ssf::noise_counter(5, 7, 0x1122334455667788), {{5, 7, 0x55667788, 0x11223344}}), "counter layout");
  return ssf::test::failures;
}

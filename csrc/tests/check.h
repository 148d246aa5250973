// SPDX-License-Identifier: Apache-2.0
// A minimal test framework: failed checks are printed and counted, and main returns their number.
#pragma once

#include <cmath>
#include <cstdio>
#include <limits>

namespace ssf::test {

inline int failures = 0;

inline void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what);
}

// Distance of `got` from the exact value, in units of the last place of float at that value.
inline double ulps(float got, long double exact) {
  const float nearest = std::fabs(static_cast<float>(exact));
  const float unit = std::nextafter(nearest, std::numeric_limits<float>::infinity()) - nearest;
  return static_cast<double>(std::fabs(got - exact) / unit);
}

}  // namespace ssf::test

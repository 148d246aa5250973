// SPDX-License-Identifier: Apache-2.0
#include "cpu/rademacher.h"

#include <algorithm>

#include "cpu/vectorize.h"

namespace ssf::cpu {

SSF_VECTORIZE
void rademacher(float* out, int64_t begin, int64_t end, const Field& field) {
  float signs[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    make_signs(signs, field, first, count);
    std::copy_n(signs, count, out + first);
  }
}

}  // namespace ssf::cpu

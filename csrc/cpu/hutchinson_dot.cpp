// SPDX-License-Identifier: Apache-2.0
#include "cpu/hutchinson_dot.h"

#include <algorithm>

#include "cpu/sums.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {

SSF_VECTORIZE
double hutchinson_dot(const void* tangent, Dtype dtype, int64_t base, const Field& field, bool signs, int64_t begin,
                      int64_t end) {
  double sum = 0;
  float buffer[kBlock], padded[kBlock], probe[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    const float* values = as_float(buffer, tangent, dtype, base + first, count);
    signs ? make_signs(probe, field, first, kBlock) : make_normals(probe, field, first, kBlock);
    std::copy_n(values, count, padded);
    std::fill(padded + count, padded + kBlock, 0.0f);
    sum += dot<kBlock>(padded, probe);
  }
  return sum;
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
#include "cpu/normal.h"

#include <algorithm>

#include "cpu/vectorize.h"

namespace ssf::cpu {

SSF_VECTORIZE
void normal(float* out, int64_t begin, int64_t end, const Field& field) {
  float z[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    make_normals(z, field, first, count);
    std::copy_n(z, count, out + first);
  }
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cpu/langevin.h"
#include "cpu/sums.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {

SSF_VECTORIZE
Norms langevin_norms(const Score& score, int64_t begin, int64_t end) {
  Norms sums{0, 0};
  float output[kBlock], noise[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    read(output, score.output, score.dtype, score.base + first, count);
    make_normals(noise, score.field, first);
    std::fill(output + count, output + kBlock, 0.0f);
    std::fill(noise + count, noise + kBlock, 0.0f);
    for (float& value : output) value *= score.factor;
    sums.score += dot(output, output);
    sums.noise += dot(noise, noise);
  }
  return sums;
}

}  // namespace ssf::cpu

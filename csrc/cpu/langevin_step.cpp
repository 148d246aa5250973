// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cpu/langevin.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {

SSF_VECTORIZE
void langevin_step(float* state, const Score& score, const float* kept, float size, int64_t begin, int64_t end) {
  const float root = std::sqrt(2.0f * size);
  float buffer[kBlock], made[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    const float* output = as_float(buffer, score.output, score.dtype, score.base + first, count);
    if (!kept) make_normals(made, score.field, first, count);
    const float* noise = kept ? kept + first : made;
    for (int64_t i = 0; i < count; ++i)
      state[first + i] = fused(root, noise[i], fused(size, score.factor * output[i], state[first + i]));
  }
}

}  // namespace ssf::cpu

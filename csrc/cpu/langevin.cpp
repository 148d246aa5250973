// SPDX-License-Identifier: Apache-2.0
#include "cpu/langevin.h"

#include <algorithm>
#include <cmath>

#include "cpu/sums.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// The sum of squares of a block's normals. The two normals of a pair of words are on a circle of radius r, so their
// squares sum to r^2 = -2 ln u, without roots and angles.
SSF_HD double noise_squares(const Field& field, int64_t first) {
  Block words;
  make_words(words, field, static_cast<uint32_t>(first / 4), kCalls);
  float squares[2][kCalls], ones[kCalls];
  for (int i = 0; i < kCalls; ++i) {
    squares[0][i] = minus_two_log(words[0][i]);
    squares[1][i] = minus_two_log(words[2][i]);
    ones[i] = 1.0f;
  }
  return dot<kCalls>(squares[0], ones) + dot<kCalls>(squares[1], ones);
}

}  // namespace

SSF_VECTORIZE
Norms langevin_norms(const Score& score, float* kept, int64_t begin, int64_t end) {
  Norms sums{0, 0};
  float buffer[kBlock], output[kBlock], noise[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    const float* values = as_float(buffer, score.output, score.dtype, score.base + first, count);
    if (count == kBlock) {
      sums.score += dot<kBlock>(values, values);
      if (kept) {
        make_normals(kept + first, score.field, first, kBlock);
        sums.noise += dot<kBlock>(kept + first, kept + first);
      } else {
        sums.noise += noise_squares(score.field, first);
      }
      continue;
    }
    std::fill(std::copy_n(values, count, output), output + kBlock, 0.0f);
    sums.score += dot<kBlock>(output, output);
    make_normals(noise, score.field, first, count);
    if (kept) std::copy_n(noise, count, kept + first);
    std::fill(noise + count, noise + kBlock, 0.0f);
    sums.noise += dot<kBlock>(noise, noise);
  }
  sums.score *= static_cast<double>(score.factor) * score.factor;
  return sums;
}

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

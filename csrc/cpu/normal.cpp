// SPDX-License-Identifier: Apache-2.0
#include "cpu/normal.h"

#include <algorithm>

#include "core/box_muller.h"
#include "core/philox.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// One block holds the normals of this many Philox calls: word by word, so that the loops become vector instructions.
constexpr int kCalls = 32;

}  // namespace

SSF_VECTORIZE
void normal(float* out, int64_t begin, int64_t end, uint64_t run_seed, uint32_t draw, uint64_t sample_id) {
  uint32_t words[4][kCalls];
  float normals[4][kCalls];
  for (int64_t first = begin; first < end; first += 4 * kCalls) {
    const auto call = static_cast<uint32_t>(first / 4);
    for (int i = 0; i < kCalls; ++i) {
      const Words result = philox(noise_counter(call + i, draw, sample_id), run_seed);
      for (int k = 0; k < 4; ++k) words[k][i] = result.w[k];
    }
    for (int k = 0; k < 4; k += 2) {
      for (int i = 0; i < kCalls; ++i) {
        const NormalPair pair = box_muller(words[k][i], words[k + 1][i]);
        normals[k][i] = pair.cosine;
        normals[k + 1][i] = pair.sine;
      }
    }
    const int64_t count = std::min<int64_t>(end - first, 4 * kCalls);
    for (int64_t j = 0; j < count; ++j) out[first + j] = normals[j % 4][j / 4];
  }
}

}  // namespace ssf::cpu

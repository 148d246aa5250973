// SPDX-License-Identifier: Apache-2.0
#include "cpu/project.h"

#include <algorithm>

#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// Sets the means of the known blocks among the `count` blocks from index `first` on to `wanted`.
SSF_HD void move(const Projection& p, float* part, const uint8_t* mask, const float* wanted, int64_t first,
                 int64_t count) {
  if (p.block_size() == 1) {
    for (int64_t i = 0; i < count; ++i) part[first + i] = mask[i] ? wanted[i] : part[first + i];
    return;
  }
  const int64_t width = p.means[2] * p.block[2], plane = p.means[1] * p.block[1] * width;
  for (int64_t i = 0; i < count; ++i) {
    if (!mask[i]) continue;
    const int64_t column = (first + i) % p.means[2], line = (first + i) / p.means[2];
    float* corner =
        part + line / p.means[1] * p.block[0] * plane + line % p.means[1] * p.block[1] * width + column * p.block[2];
    float sum = 0.0f;
    for (int64_t c = 0; c < p.block[0]; ++c)
      for (int64_t h = 0; h < p.block[1]; ++h)
        for (int64_t w = 0; w < p.block[2]; ++w) sum += corner[c * plane + h * width + w];
    const float change = wanted[i] - sum / static_cast<float>(p.block_size());
    for (int64_t c = 0; c < p.block[0]; ++c)
      for (int64_t h = 0; h < p.block[1]; ++h)
        for (int64_t w = 0; w < p.block[2]; ++w) corner[c * plane + h * width + w] += change;
  }
}

}  // namespace

SSF_VECTORIZE
void project(const Projection& p, int64_t sample, int64_t begin, int64_t end) {
  const float* row = p.row;
  const Field field{p.run_seed, static_cast<uint64_t>(p.sample_ids[sample]), p.draw};
  const int64_t part = p.count() * p.block_size();
  float* state = p.state + sample * part * (p.pairs ? 2 : 1);
  float noise[kBlock], velocity_noise[kBlock], wanted[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min<int64_t>(end - first, kBlock);
    const float* known = p.known + sample * p.count() + first;
    const uint8_t* mask = p.mask + sample * p.count() + first;
    make_normals(noise, field, first, count);
    for (int64_t i = 0; i < count; ++i)
      wanted[i] = fused(row[LevelColumns::noise], noise[i], row[LevelColumns::scale] * known[i]);
    move(p, state, mask, wanted, first, count);
    if (!p.pairs) continue;
    make_unaligned(velocity_noise, field, p.count() + first, count);
    for (int64_t i = 0; i < count; ++i) {
      const float mean =
          fused(row[LevelColumns::velocity_noise_x], noise[i], row[LevelColumns::velocity_scale] * known[i]);
      wanted[i] = fused(row[LevelColumns::velocity_noise_v], velocity_noise[i], mean);
    }
    move(p, state + part, mask, wanted, first, count);
  }
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
// Noise in blocks, generated inside the kernels that use it: word by word, so that loops become vector instructions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/box_muller.h"
#include "core/philox.h"

namespace ssf::cpu {

constexpr int kCalls = 64;          // Philox calls of one block,
constexpr int kBlock = 4 * kCalls;  // and its elements
constexpr int kFewCalls = 8;        // one vector of them: enough for points and the tails of samples

// One sample's field.
struct Field {
  uint64_t run_seed, sample_id;
  uint32_t draw;
};

// Words of the calls of a block, apart: words[k][i] is word k of call first_call + i.
using Block = uint32_t[4][kCalls];
void make_words(Block& words, const Field& field, uint32_t first_call, int calls);
// The same for every processor.
void make_words_anywhere(Block& words, const Field& field, uint32_t first_call, int calls);

// The normals of `Calls` calls from element `first`, a multiple of 4, on.
template <int Calls>
SSF_HD void normals_of(float* out, const Field& field, int64_t first) {
  Block words;
  make_words(words, field, static_cast<uint32_t>(first / 4), Calls);
  float normals[4][Calls], squares[Calls];
  for (int k = 0; k < 4; k += 2) {
    // A separate loop: both chains of operations together exceed a processor's look-ahead.
    for (int i = 0; i < Calls; ++i) squares[i] = minus_two_log(words[k][i]);
    for (int i = 0; i < Calls; ++i) {
      const NormalPair pair = on_circle(squares[i], words[k + 1][i]);
      normals[k][i] = pair.cosine;
      normals[k + 1][i] = pair.sine;
    }
  }
  for (int i = 0; i < Calls; ++i)
    for (int k = 0; k < 4; ++k) out[4 * i + k] = normals[k][i];
}

// `count` to kBlock normals of the elements from `first`, a multiple of 4, on; `out` has room for kBlock.
SSF_HD void make_normals(float* out, const Field& field, int64_t first, int64_t count) {
  count <= 4 * kFewCalls ? normals_of<kFewCalls>(out, field, first) : normals_of<kCalls>(out, field, first);
}

// The normals of `count` elements of the field from element `first` on, which need not be a multiple of 4.
SSF_HD void make_unaligned(float (&out)[kBlock], const Field& field, int64_t first, int64_t count) {
  float block[kBlock];
  const int64_t shift = first % 4;
  make_normals(shift ? block : out, field, first - shift, shift + count);
  if (shift == 0) return;
  const int64_t here = std::min<int64_t>(count, kBlock - shift);
  std::copy_n(block + shift, here, out);
  if (here == count) return;
  make_normals(block, field, first - shift + kBlock, count - here);
  std::copy_n(block, count - here, out + here);
}

// The signs of the same elements: 1 or -1 by the top bit of each element's word.
SSF_HD void make_signs(float (&out)[kBlock], const Field& field, int64_t first, int64_t count) {
  const int calls = count <= 4 * kFewCalls ? kFewCalls : kCalls;
  Block words;
  make_words(words, field, static_cast<uint32_t>(first / 4), calls);
  for (int i = 0; i < calls; ++i)
    for (int k = 0; k < 4; ++k) out[4 * i + k] = words[k][i] >> 31 ? -1.0f : 1.0f;
}

}  // namespace ssf::cpu

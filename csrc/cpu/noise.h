// SPDX-License-Identifier: Apache-2.0
// Noise in blocks, generated inside the kernels that use it, word by word so that loops are vectorised.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/box_muller.h"
#include "core/philox.h"

namespace ssf::cpu {

constexpr int kCalls = 64;          // Philox calls of a block
constexpr int kBlock = 4 * kCalls;  // elements of a block
constexpr int kFewCalls = 8;        // calls of one vector: enough for points and the ends of samples

// Identifies the noise of one sample in one draw.
struct Field {
  uint64_t run_seed, sample_id;
  uint32_t draw;
};

// Computes the words of a block's calls: words[k][i] is word k of call first_call + i.
using Block = uint32_t[4][kCalls];
void make_words(Block& words, const Field& field, uint32_t first_call, int calls);
// The portable version of make_words.
void make_words_anywhere(Block& words, const Field& field, uint32_t first_call, int calls);

// Computes the normals of `Calls` calls, starting at element `first`, a multiple of 4.
template <int Calls>
SSF_HD void normals_of(float* out, const Field& field, int64_t first) {
  Block words;
  make_words(words, field, static_cast<uint32_t>(first / 4), Calls);
  float normals[4][Calls], squares[Calls];
  for (int k = 0; k < 4; k += 2) {
    // A separate loop, because both chains of operations together exceed a processor's reorder window.
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

// Computes at least `count` normals, starting at element `first`, a multiple of 4; `out` has room for kBlock.
SSF_HD void make_normals(float* out, const Field& field, int64_t first, int64_t count) {
  count <= 4 * kFewCalls ? normals_of<kFewCalls>(out, field, first) : normals_of<kCalls>(out, field, first);
}

// Computes the normals of `count` elements, starting at element `first`, which need not be a multiple of 4.
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

// Computes at least `count` signs from element `first` on, a multiple of 4: 1 or -1 by the top bit of a word.
SSF_HD void make_signs(float (&out)[kBlock], const Field& field, int64_t first, int64_t count) {
  const int calls = count <= 4 * kFewCalls ? kFewCalls : kCalls;
  Block words;
  make_words(words, field, static_cast<uint32_t>(first / 4), calls);
  for (int i = 0; i < calls; ++i)
    for (int k = 0; k < 4; ++k) out[4 * i + k] = words[k][i] >> 31 ? -1.0f : 1.0f;
}

}  // namespace ssf::cpu

// SPDX-License-Identifier: Apache-2.0
#include "cpu/noise.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    (!defined(SSF_X86_LEVEL) || SSF_X86_LEVEL >= 3)
#include <immintrin.h>
#define SSF_AVX2 1
#endif

namespace ssf::cpu {
namespace {

#if SSF_AVX2
// Compilers compute 32 x 32 -> 64 bit products of 32-bit lanes with shuffles around each. Here each word is in the low
// half of a 64-bit lane, where the product needs no shuffle and ignores the high half. Even and odd calls stay separate
// until a shift and a blend join them. This takes a third of the instructions.
__attribute__((target("avx2"))) void make_words_avx2(Block& words, const Field& field, uint32_t first_call, int calls) {
  __m256i keys[10][2];
  auto key0 = static_cast<uint32_t>(field.run_seed), key1 = static_cast<uint32_t>(field.run_seed >> 32);
  for (auto& key : keys) {
    key[0] = _mm256_set1_epi64x(key0);
    key[1] = _mm256_set1_epi64x(key1);
    key0 += kPhiloxKeySteps[0];
    key1 += kPhiloxKeySteps[1];
  }
  const __m256i multiplier0 = _mm256_set1_epi64x(kPhiloxMultipliers[0]);
  const __m256i multiplier1 = _mm256_set1_epi64x(kPhiloxMultipliers[1]);
  const Words head = noise_counter(first_call, field.draw, field.sample_id);

  for (int i = 0; i < calls; i += 8) {
    const uint32_t call = first_call + i;
    __m256i c[4][2];
    // Sums of 32-bit lanes, so that the call index wraps like the contract's word.
    c[0][0] = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(call)), _mm256_setr_epi64x(0, 2, 4, 6));
    c[0][1] = _mm256_add_epi32(c[0][0], _mm256_set1_epi64x(1));
    for (int half = 0; half < 2; ++half)
      for (int k = 1; k < 4; ++k) c[k][half] = _mm256_set1_epi64x(head.w[k]);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      for (int half = 0; half < 2; ++half) {
        const __m256i product0 = _mm256_mul_epu32(c[0][half], multiplier0);
        const __m256i product1 = _mm256_mul_epu32(c[2][half], multiplier1);
        const __m256i keyed1 = _mm256_xor_si256(c[1][half], keys[round][0]);
        const __m256i keyed3 = _mm256_xor_si256(c[3][half], keys[round][1]);
        c[0][half] = _mm256_xor_si256(_mm256_srli_epi64(product1, 32), keyed1);
        c[1][half] = product1;
        c[2][half] = _mm256_xor_si256(_mm256_srli_epi64(product0, 32), keyed3);
        c[3][half] = product0;
      }
    }
    for (int k = 0; k < 4; ++k) {
      const __m256i joined = _mm256_blend_epi32(c[k][0], _mm256_slli_epi64(c[k][1], 32), 0b10101010);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words[k] + i), joined);
    }
  }
}
#endif

}  // namespace

void make_words_anywhere(Block& words, const Field& field, uint32_t first_call, int calls) {
  for (int i = 0; i < calls; ++i) {
    const Words result = philox(noise_counter(first_call + i, field.draw, field.sample_id), field.run_seed);
    for (int k = 0; k < 4; ++k) words[k][i] = result.w[k];
  }
}

// Not multiversioned, because a caller in another file sees only the declaration and would call the default version.
void make_words(Block& words, const Field& field, uint32_t first_call, int calls) {
#if SSF_AVX2
  if (__builtin_cpu_supports("avx2")) return make_words_avx2(words, field, first_call, calls);
#endif
  make_words_anywhere(words, field, first_call, calls);
}

}  // namespace ssf::cpu

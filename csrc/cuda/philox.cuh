// SPDX-License-Identifier: Apache-2.0
// core/philox.h for a GPU: the keys of the rounds are kernel arguments, which instructions read at no cost, so that
// threads need not compute them.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "cuda/intrinsics.cuh"

namespace ssf::cuda {

struct PhiloxKeys {
  uint32_t low[10], high[10];

  explicit PhiloxKeys(uint64_t run_seed) {
    low[0] = static_cast<uint32_t>(run_seed);
    high[0] = static_cast<uint32_t>(run_seed >> 32);
    for (int round = 1; round < 10; ++round) {
      low[round] = low[round - 1] + kPhiloxKeySteps[0];
      high[round] = high[round - 1] + kPhiloxKeySteps[1];
    }
  }
};

__device__ __forceinline__ Words philox(Words counter, const PhiloxKeys& keys) {
  constexpr uint32_t first = kPhiloxMultipliers[0], second = kPhiloxMultipliers[1];
  uint32_t c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
  SSF_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = multiply_wide(first, c0), product1 = multiply_wide(second, c2);
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ keys.low[round];
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ keys.high[round];
    c3 = static_cast<uint32_t>(product0);
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace ssf::cuda

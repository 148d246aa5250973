// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// scoresde_fast/rng.py defines the counters of the noise contract.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace ssf {

struct Words {
  uint32_t w[4];
};

constexpr uint32_t kPhiloxMultipliers[2] = {0xD2511F53, 0xCD9E8D57}, kPhiloxKeySteps[2] = {0x9E3779B9, 0xBB67AE85};

SSF_HD Words philox(Words counter, uint64_t key) {
  uint32_t c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultipliers[0]} * c0;
    const uint64_t product1 = uint64_t{kPhiloxMultipliers[1]} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += kPhiloxKeySteps[0];
    k1 += kPhiloxKeySteps[1];
  }
  return {{c0, c1, c2, c3}};
}

// The counter of the call for elements 4 * call to 4 * call + 3 of a sample.
SSF_HD Words noise_counter(uint32_t call, uint32_t draw, uint64_t sample_id) {
  return {{call, draw, static_cast<uint32_t>(sample_id), static_cast<uint32_t>(sample_id >> 32)}};
}

}  // namespace ssf

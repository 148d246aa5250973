// SPDX-License-Identifier: Apache-2.0
// Which inputs a resampling by two reads along one axis, and with which taps (scoresde_fast/ops/fir_resample.py).
#pragma once

#include <algorithm>
#include <cstdint>

namespace ssf::cpu {

enum class Resample { kNone, kUp, kDown };

struct FirWindow {
  Resample kind;
  int64_t taps;  // two or more

  int64_t output_size(int64_t input_size) const {
    return kind == Resample::kUp ? 2 * input_size : kind == Resample::kDown ? input_size / 2 : input_size;
  }

  // The first input of output o, before it is clipped to the image, and the one past the last.
  int64_t begin(int64_t o) const {
    const int64_t up = o + lead() - taps + 1;
    return kind == Resample::kUp ? (up >= 0 ? (up + 1) / 2 : -(-up / 2)) : 2 * o - front();
  }
  int64_t end(int64_t o) const { return kind == Resample::kUp ? (o + lead()) / 2 + 1 : begin(o) + taps; }

  // The tap that joins output o and input i.
  int64_t tap(int64_t o, int64_t i) const {
    return kind == Resample::kUp ? o + lead() - 2 * i : taps - 1 - front() + 2 * o - i;
  }

 private:
  int64_t lead() const { return taps - 2 - (taps - 1) / 2; }
  int64_t front() const { return (taps - 1) / 2; }
};

}  // namespace ssf::cpu

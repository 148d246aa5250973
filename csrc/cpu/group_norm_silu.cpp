// SPDX-License-Identifier: Apache-2.0
#include "cpu/group_norm_silu.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/moments.h"
#include "cpu/silu.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// Coefficients and sums of a block of channels. (x - centre) gain + offset is the norm including shift, scale, weight
// and bias; for SiLU, gain and offset have the opposite sign.
struct Scratch {
  std::unique_ptr<float[]> memory;
  float *centre, *gain, *offset, *shift, *pivot, *sum, *square;  // of each channel
  std::vector<Moments> moments;                                  // of each group

  Scratch(int64_t channels, int64_t groups) : memory(new float[7 * channels]), moments(groups) {
    float* next = memory.get();
    for (float** place : {&centre, &gain, &offset, &shift, &pivot, &sum, &square}) {
      *place = next;
      next += channels;
    }
  }
};

template <bool kSilu>
[[gnu::always_inline]] inline float activate(float x, float centre, float gain, float offset, float bound) {
  const float z = (x - centre) * gain + offset;
  return kSilu ? silu_of_negative(z, bound) : z;
}

// y[i] = activate(x[i]) with the coefficients of lane i, or of lane 0 for pixels of one channel (kPlane).
template <bool kSilu, bool kPlane, class In, class Out>
[[gnu::always_inline]] inline void activate_all(const In* __restrict x, int64_t count, const float* __restrict centre,
                                                const float* __restrict gain, const float* __restrict offset,
                                                Out* __restrict y) {
  const float bound = exp_bound;
  if constexpr (std::is_same_v<Out, float>) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = kPlane ? 0 : i;
      y[i] = activate<kSilu>(widen(x[i]), centre[c], gain[c], offset[c], bound);
    }
    return;
  }
  // Narrowing is a separate loop, to leave more registers for the first one.
  constexpr int64_t kPiece = 256;
  float values[kPiece];
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t size = std::min(kPiece, count - first), lane = kPlane ? 0 : first;
    activate_all<kSilu, kPlane>(x + first, size, centre + lane, gain + lane, offset + lane, values);
    for (int64_t i = 0; i < size; ++i) narrow(values[i], y[first + i]);
  }
}

// Channels [begin, end) of a sample.
struct Block {
  int64_t sample, begin, end;

  int64_t size() const { return end - begin; }

  // Index of the first element in an image of this many pixels.
  template <class T>
  int64_t offset(const GroupNormSilu<T>& op, int64_t pixels) const {
    return sample * op.channels * pixels + begin * (op.channels_last ? 1 : pixels);
  }
};

template <class T>
[[gnu::always_inline]] inline void join_pixel(const T* __restrict x, const T* __restrict residual, int64_t channels,
                                              const float* __restrict shift, float scale, T* __restrict h) {
  for (int64_t c = 0; c < channels; ++c) narrow((widen(x[c]) + shift[c] + widen(residual[c])) * scale, h[c]);
}

template <class T>
[[gnu::always_inline]] inline void join_plane(const T* __restrict x, const T* __restrict residual, int64_t pixels,
                                              float shift, float scale, T* __restrict h) {
  for (int64_t i = 0; i < pixels; ++i) narrow((widen(x[i]) + shift + widen(residual[i])) * scale, h[i]);
}

// With a residual, h is computed and stored here, and the moments are those of h, otherwise those of x + shift.
template <class T>
[[gnu::always_inline]] inline void measure_planes(const GroupNormSilu<T>& op, const Block& block, Scratch& scratch) {
  const int64_t pixels = op.pixels, group = op.channels / op.groups, start = block.offset(op, pixels);
  const T* source = (op.residual ? op.joined : op.x) + start;
  for (int64_t first = 0; first < block.size(); first += group) {
    Moments& moments = scratch.moments[first / group];
    if (op.residual || !op.shift) {
      for (int64_t c = first; op.residual && c < first + group; ++c) {
        const int64_t i = start + c * pixels;
        join_plane(op.x + i, op.residual + i, pixels, scratch.shift[c], op.scale, op.joined + i);
      }
      moments = moments_of(source + first * pixels, group * pixels);
      continue;
    }
    for (int64_t c = first; c < first + group; ++c) {
      const Moments plane = moments_of(source + c * pixels, pixels);
      const double before = static_cast<double>(c - first), count = static_cast<double>(pixels);
      const double apart = plane.mean + scratch.shift[c] - moments.mean;
      moments.mean += apart / (before + 1);
      moments.squares += plane.squares + apart * apart * count * before / (before + 1);
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void measure_pixels(const GroupNormSilu<T>& op, const Block& block, Scratch& scratch) {
  const int64_t pixels = op.pixels, group = op.channels / op.groups, channels = block.size();
  const int64_t start = block.offset(op, pixels), groups = channels / group;
  const T* source = (op.residual ? op.joined : op.x) + start;
  const bool shifted = op.shift && !op.residual;
  std::vector<double> pivots(groups);
  for (int64_t p = 0; p < pixels; p += kChunk) {
    const int64_t rows = std::min(kChunk, pixels - p);
    for (int64_t row = 0; op.residual && row < rows; ++row) {
      const int64_t i = start + (p + row) * op.channels;
      join_pixel(op.x + i, op.residual + i, channels, scratch.shift, op.scale, op.joined + i);
    }
    // A group's pivot is the mean of its first pixel.
    for (int64_t g = 0; p == 0 && g < groups; ++g) {
      const int64_t first = g * group;
      for (int64_t c = first; c < first + group; ++c)
        scratch.sum[c] = widen(source[c]) + (shifted ? scratch.shift[c] : 0.0f);
      pivots[g] = static_cast<float>(total(scratch.sum + first, group) / static_cast<double>(group));
      for (int64_t c = first; c < first + group; ++c)
        scratch.pivot[c] = static_cast<float>(pivots[g] - (shifted ? scratch.shift[c] : 0.0f));
    }
    std::fill_n(scratch.sum, channels, 0.0f);
    std::fill_n(scratch.square, channels, 0.0f);
    add_rows(source + p * op.channels, rows, op.channels, channels, scratch.pivot, scratch.sum, scratch.square);
    for (int64_t g = 0; g < groups; ++g) {
      scratch.moments[g].mean += total(scratch.sum + g * group, group);
      scratch.moments[g].squares += total(scratch.square + g * group, group);
    }
  }
  for (int64_t g = 0; g < groups; ++g) scratch.moments[g].finish(pivots[g], static_cast<double>(pixels * group));
}

[[gnu::always_inline]] inline void fold(int64_t channels, double mean, float factor, float sign, const float* shift,
                                        const float* weight, const float* bias, float* __restrict centre,
                                        float* __restrict gain, float* __restrict offset) {
  for (int64_t c = 0; c < channels; ++c) {
    centre[c] = static_cast<float>(mean - shift[c]);
    gain[c] = factor * weight[c];
    offset[c] = sign * bias[c];
  }
}

// Statistics of each group from its moments, and the coefficients of the norm.
template <class T>
[[gnu::always_inline]] inline void normalise(const GroupNormSilu<T>& op, const Block& block, Scratch& scratch) {
  const int64_t group = op.channels / op.groups;
  const double elements = static_cast<double>(op.pixels * group);
  // Without a residual the moments are of x + shift, and h = (x + shift) * scale.
  const double scale = op.residual ? 1.0 : op.scale;
  const float sign = op.silu ? -1.0f : 1.0f;
  if (op.residual) std::fill_n(scratch.shift, block.size(), 0.0f);
  for (int64_t first = 0; first < block.size(); first += group) {
    const Moments moments = scratch.moments[first / group];
    const double reciprocal = 1.0 / std::sqrt(moments.squares / elements * scale * scale + op.eps);
    float* statistics = op.statistics + 2 * (block.sample * op.groups + (block.begin + first) / group);
    statistics[0] = static_cast<float>(moments.mean * scale);
    statistics[1] = static_cast<float>(reciprocal);
    fold(group, moments.mean, sign * static_cast<float>(reciprocal * scale), sign, scratch.shift + first,
         op.weight + block.begin + first, op.bias + block.begin + first, scratch.centre + first, scratch.gain + first,
         scratch.offset + first);
  }
}

template <bool kSilu, class T>
[[gnu::always_inline]] inline void apply(const GroupNormSilu<T>& op, const Block& block, const Scratch& scratch) {
  const int64_t pixels = op.pixels, start = block.offset(op, pixels), channels = block.size();
  const T* x = (op.residual ? op.joined : op.x) + start;
  T* y = op.y + start;
  const float *centre = scratch.centre, *gain = scratch.gain, *offset = scratch.offset;
  if (op.channels_last) {
    for (int64_t p = 0; p < pixels; ++p) {
      activate_all<kSilu, false>(x + p * op.channels, channels, centre, gain, offset, y + p * op.channels);
    }
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      activate_all<kSilu, true>(x + c * pixels, pixels, centre + c, gain + c, offset + c, y + c * pixels);
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void run(const GroupNormSilu<T>& op, int64_t sample, int64_t first, int64_t last) {
  const int64_t group = op.channels / op.groups;
  const Block block{sample, first * group, last * group};
  Scratch scratch(block.size(), last - first);
  if (op.shift) {
    std::copy_n(op.shift + sample * op.shift_stride + block.begin, block.size(), scratch.shift);
  } else {
    std::fill_n(scratch.shift, block.size(), 0.0f);
  }
  op.channels_last ? measure_pixels(op, block, scratch) : measure_planes(op, block, scratch);
  normalise(op, block, scratch);
  op.silu ? apply<true>(op, block, scratch) : apply<false>(op, block, scratch);
}

}  // namespace

SSF_VECTORIZE
void group_norm_silu(const GroupNormSilu<float>& op, int64_t sample, int64_t first, int64_t last) {
  run(op, sample, first, last);
}

SSF_VECTORIZE
void group_norm_silu(const GroupNormSilu<BFloat16>& op, int64_t sample, int64_t first, int64_t last) {
  run(op, sample, first, last);
}

SSF_VECTORIZE
void group_norm_silu(const GroupNormSilu<Half>& op, int64_t sample, int64_t first, int64_t last) {
  run(op, sample, first, last);
}

}  // namespace ssf::cpu

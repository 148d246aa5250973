// SPDX-License-Identifier: Apache-2.0
#include "cpu/group_norm_silu.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/moments.h"
#include "cpu/silu.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// y = (x - centre) gain + offset or, with the signs of both turned, its SiLU: the norm of one channel or of each, with
// shift, scale, weight and bias folded in.
struct Affine {
  std::vector<float> centre, gain, offset;
};

template <bool kSilu>
[[gnu::always_inline]] inline float activate(float x, float centre, float gain, float offset, float bound) {
  const float z = (x - centre) * gain + offset;
  return kSilu ? silu_of_negative(z, bound) : z;
}

// y[i] = activate(x[i]) with the coefficients of lane i, or, for pixels of one channel (kPlane), with the first ones.
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
  // Narrowing in a loop of its own leaves more registers to the first.
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

  // The first element in an image of this many pixels.
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

// The moments of x, or of h, which is made and stored on the way, where there is a residual: of each channel, or, for
// NCHW images without a shift of their own, of each group, whose elements are neighbours.
template <class T>
[[gnu::always_inline]] inline Moments measure(const GroupNormSilu<T>& op, const Block& block, const float* shift) {
  const int64_t pixels = op.pixels, start = block.offset(op, pixels), channels = block.size();
  const T* source = op.residual ? op.joined : op.x;
  if (!op.channels_last) {
    const int64_t group = op.shift && !op.residual ? 1 : op.channels / op.groups;
    Moments moments(channels / group);
    for (int64_t c = 0; c < channels; c += group) {
      for (int64_t k = c; op.residual && k < c + group; ++k) {
        const int64_t i = start + k * pixels;
        join_plane(op.x + i, op.residual + i, pixels, shift[k], op.scale, op.joined + i);
      }
      moments.set_neighbours(c / group, source + start + c * pixels, group * pixels);
    }
    return moments;
  }
  Moments moments(channels);
  for (int64_t p = 0; p < pixels; p += Moments::kChunk) {
    const int64_t rows = std::min(Moments::kChunk, pixels - p);
    for (int64_t row = 0; op.residual && row < rows; ++row) {
      const int64_t i = start + (p + row) * op.channels;
      join_pixel(op.x + i, op.residual + i, channels, shift, op.scale, op.joined + i);
    }
    moments.add_rows(source + start + p * op.channels, rows, op.channels);
  }
  moments.finish_rows();
  return moments;
}

// Statistics of each group from its moments, and what they make of the norm.
template <class T>
[[gnu::always_inline]] inline Affine normalise(const GroupNormSilu<T>& op, const Block& block, const float* shift,
                                               const Moments& moments) {
  const int64_t group = op.channels / op.groups, channels = block.size();
  // Sets of numbers a group, and how many numbers each has.
  const int64_t sets = static_cast<int64_t>(moments.mean.size()) * group / channels;
  const double parts = static_cast<double>(sets), elements = static_cast<double>(op.pixels * group);
  // Where there is no residual the moments are those of x, and h = (x + shift) * scale.
  const double scale = op.residual ? 1.0 : op.scale;
  const float sign = op.silu ? -1.0f : 1.0f;
  Affine affine{std::vector<float>(channels), std::vector<float>(channels), std::vector<float>(channels)};
  for (int64_t first = 0; first < channels; first += group) {
    const double *means = moments.mean.data() + first * sets / group,
                 *squares = moments.squares.data() + first * sets / group;
    const bool shifted = op.shift && !op.residual;
    double mean = 0, sum = 0;
    for (int64_t i = 0; i < sets; ++i) mean += means[i] + (shifted ? shift[first + i] : 0.0f);
    mean /= parts;
    for (int64_t i = 0; i < sets; ++i) {
      const double apart = means[i] + (shifted ? shift[first + i] : 0.0f) - mean;
      sum += squares[i] + elements / parts * apart * apart;
    }
    const double reciprocal = 1.0 / std::sqrt(sum / elements * scale * scale + op.eps);
    float* statistics = op.statistics + 2 * (block.sample * op.groups + (block.begin + first) / group);
    statistics[0] = static_cast<float>(mean * scale);
    statistics[1] = static_cast<float>(reciprocal);
    for (int64_t c = first; c < first + group; ++c) {
      affine.centre[c] = static_cast<float>(mean - (shifted ? shift[c] : 0.0f));
      affine.gain[c] = sign * static_cast<float>(reciprocal * scale) * op.weight[block.begin + c];
      affine.offset[c] = sign * op.bias[block.begin + c];
    }
  }
  return affine;
}

template <bool kSilu, class T>
[[gnu::always_inline]] inline void apply(const GroupNormSilu<T>& op, const Block& block, const Affine& affine) {
  const int64_t pixels = op.pixels, start = block.offset(op, pixels), channels = block.size();
  const T* x = (op.residual ? op.joined : op.x) + start;
  T* y = op.y + start;
  const float *centre = affine.centre.data(), *gain = affine.gain.data(), *offset = affine.offset.data();
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
  std::vector<float> shift(block.size());
  if (op.shift) std::copy_n(op.shift + sample * op.shift_stride + block.begin, block.size(), shift.begin());
  const Affine affine = normalise(op, block, shift.data(), measure(op, block, shift.data()));
  op.silu ? apply<true>(op, block, affine) : apply<false>(op, block, affine);
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

// SPDX-License-Identifier: Apache-2.0
#include "cpu/group_norm_silu_gradients.h"

#include <algorithm>
#include <vector>

#include "cpu/silu.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

constexpr int64_t kChunk = 32;  // rows that are summed in float32
constexpr int64_t kLanes = 32;  // neighbouring values of a plane that are summed separately

// Coefficients of a lane: n = (x - centre) gain, z = n weight + bias. The lanes of channels_last images are channels;
// in NCHW images all lanes are the same channel.
struct Lanes {
  const float *centre, *gain, *weight, *bias;
};

// Sums of d, n d, n and the gradient of h, lane by lane.
struct Sums {
  float *d, *product, *n, *grad_h;
};

template <bool kBackward, bool kPlane, bool kSilu, class T>
[[gnu::always_inline]] inline void add_row(const T* __restrict source, const T* __restrict change,
                                           const T* __restrict grad_h, int64_t count, const Lanes& lanes,
                                           const Sums& sums) {
  const float *centre = lanes.centre, *gain = lanes.gain, *weight = lanes.weight, *bias = lanes.bias;
  const float bound = exp_bound;
  // Several loops with local arrays in between, because compilers do not vectorise loops with many pointers.
  constexpr int64_t kPiece = 256;
  float n[kPiece], d[kPiece];
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t size = std::min(kPiece, count - first);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = kPlane ? 0 : first + i;
      n[i] = (widen(source[first + i]) - centre[c]) * gain[c];
      d[i] = widen(change[first + i]);
      if constexpr (kSilu) d[i] *= silu_slope(n[i] * weight[c] + bias[c], bound);
    }
    for (int64_t i = 0; i < size; ++i) sums.d[first + i] += d[i];
    for (int64_t i = 0; i < size; ++i) sums.product[first + i] += n[i] * d[i];
    for (int64_t i = 0; kBackward && i < size; ++i) sums.n[first + i] += n[i];
  }
  for (int64_t i = 0; kBackward && grad_h && i < count; ++i) sums.grad_h[i] += widen(grad_h[i]);
}

// Group means of weight d (or of the tangent) and of its product with n, and the reciprocal standard deviation.
struct Group {
  const float *mean, *product, *reciprocal;
};

template <bool kBackward, bool kPlane, bool kSilu, bool kGradH, class T>
[[gnu::always_inline]] inline void write_row(const T* __restrict source, const T* __restrict change,
                                             const T* __restrict grad_h, int64_t count, const Lanes& lanes,
                                             const Group& group, float out_scale, T* __restrict out) {
  const float *centre = lanes.centre, *gain = lanes.gain, *weight = lanes.weight, *bias = lanes.bias;
  const float *mean = group.mean, *product = group.product, *reciprocal = group.reciprocal;
  const float bound = exp_bound;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t c = kPlane ? 0 : i;
    const float n = (widen(source[i]) - centre[c]) * gain[c];
    float factor = weight[c];
    if constexpr (kSilu) factor *= silu_slope(n * weight[c] + bias[c], bound);
    const float d = kBackward ? widen(change[i]) * factor : widen(change[i]);
    float value = (d - mean[c] - n * product[c]) * reciprocal[c];
    if constexpr (kBackward) {
      if constexpr (kGradH) value += widen(grad_h[i]);
      value *= out_scale;
    } else {
      value *= factor;
    }
    narrow(value, out[i]);
  }
}

// The values per channel of a block of channels.
struct Channels {
  std::vector<float> centre, gain, mean, product, reciprocal;
  std::vector<double> d, products, n, grad_h;

  explicit Channels(int64_t count)
      : centre(count),
        gain(count),
        mean(count),
        product(count),
        reciprocal(count),
        d(count),
        products(count),
        n(count),
        grad_h(count) {}
};

template <bool kBackward, bool kSilu, class T>
[[gnu::always_inline]] inline void add_up(const GroupNormGradient<T>& op, int64_t start, int64_t count,
                                          const Lanes& lanes, Channels& channels) {
  const int64_t width = op.channels_last ? count : kLanes;
  std::vector<float> memory(4 * width);
  const Sums sums{memory.data(), memory.data() + width, memory.data() + 2 * width, memory.data() + 3 * width};
  const auto row = [&]<bool kPlane>(int64_t at, int64_t lanes_of_row, const Lanes& of) __attribute__((always_inline)) {
    add_row<kBackward, kPlane, kSilu>(op.source + at, op.change + at, op.grad_h ? op.grad_h + at : nullptr,
                                      lanes_of_row, of, sums);
  };
  const auto flush = [&](int64_t lane, int64_t channel) {
    channels.d[channel] += sums.d[lane];
    channels.products[channel] += sums.product[lane];
    channels.n[channel] += sums.n[lane];
    channels.grad_h[channel] += sums.grad_h[lane];
  };
  if (op.channels_last) {
    for (int64_t first = 0; first < op.pixels; first += kChunk) {
      std::fill(memory.begin(), memory.end(), 0.0f);
      for (int64_t p = first; p < std::min(first + kChunk, op.pixels); ++p) {
        row.template operator()<false>(start + p * op.channels, count, lanes);
      }
      for (int64_t c = 0; c < count; ++c) flush(c, c);
    }
    return;
  }
  for (int64_t c = 0; c < count; ++c) {
    const Lanes of{lanes.centre + c, lanes.gain + c, lanes.weight + c, lanes.bias + c};
    for (int64_t first = 0; first < op.pixels; first += kChunk * kLanes) {
      std::fill(memory.begin(), memory.end(), 0.0f);
      const int64_t end = std::min(first + kChunk * kLanes, op.pixels);
      for (int64_t p = first; p < end; p += kLanes) {
        row.template operator()<true>(start + c * op.pixels + p, std::min(kLanes, end - p), of);
      }
      for (int64_t lane = 0; lane < kLanes; ++lane) flush(lane, c);
    }
  }
}

template <bool kBackward, class T>
[[gnu::always_inline]] inline void run(const GroupNormGradient<T>& op, int64_t sample, int64_t first, int64_t last) {
  const int64_t group = op.channels / op.groups, begin = first * group, count = (last - first) * group;
  const int64_t start = sample * op.channels * op.pixels + begin * (op.channels_last ? 1 : op.pixels);
  Channels channels(count);
  for (int64_t c = 0; c < count; ++c) {
    const float* statistics = op.statistics + 2 * (sample * op.groups + first + c / group);
    const double shift = op.shift ? op.shift[sample * op.shift_stride + begin + c] : 0.0f;
    channels.centre[c] = op.scale == 0 ? 0.0f : static_cast<float>(statistics[0] / double{op.scale} - shift);
    channels.gain[c] = op.scale * statistics[1];
    channels.reciprocal[c] = statistics[1];
  }
  const Lanes lanes{channels.centre.data(), channels.gain.data(), op.weight + begin, op.bias + begin};
  if (kBackward && op.silu) {
    add_up<kBackward, kBackward>(op, start, count, lanes, channels);
  } else {
    add_up<kBackward, false>(op, start, count, lanes, channels);
  }
  const double pixels = static_cast<double>(op.pixels), elements = pixels * static_cast<double>(group);
  for (int64_t from = 0; from < count; from += group) {
    double mean = 0, product = 0;
    for (int64_t c = from; c < from + group; ++c) {
      const double weight = kBackward ? lanes.weight[c] : 1.0f;
      mean += weight * channels.d[c] / elements;
      product += weight * channels.products[c] / elements;
    }
    for (int64_t c = from; c < from + group; ++c) {
      channels.mean[c] = static_cast<float>(mean);
      channels.product[c] = static_cast<float>(product);
      if constexpr (kBackward) {
        const int64_t at = sample * op.channels + begin + c;
        const double sum = lanes.weight[c] * channels.d[c] - mean * pixels - product * channels.n[c];
        op.grad_weight[at] = static_cast<float>(channels.products[c]);
        op.grad_bias[at] = static_cast<float>(channels.d[c]);
        op.grad_shift[at] = static_cast<float>((channels.reciprocal[c] * sum + channels.grad_h[c]) * op.out_scale);
      }
    }
  }
  const auto write = [&]<bool kSilu, bool kGradH>() __attribute__((always_inline)) {
    for (int64_t i = 0; i < (op.channels_last ? op.pixels : count); ++i) {
      const int64_t at = start + i * (op.channels_last ? op.channels : op.pixels), c = op.channels_last ? 0 : i;
      const Lanes of{lanes.centre + c, lanes.gain + c, lanes.weight + c, lanes.bias + c};
      const Group means{channels.mean.data() + c, channels.product.data() + c, channels.reciprocal.data() + c};
      const T *source = op.source + at, *change = op.change + at, *grad_h = kGradH ? op.grad_h + at : nullptr;
      if (op.channels_last) {
        write_row<kBackward, false, kSilu, kGradH>(source, change, grad_h, count, of, means, op.out_scale, op.out + at);
      } else {
        write_row<kBackward, true, kSilu, kGradH>(source, change, grad_h, op.pixels, of, means, op.out_scale,
                                                  op.out + at);
      }
    }
  };
  if (kBackward && op.grad_h) {
    op.silu ? write.template operator()<true, kBackward>() : write.template operator()<false, kBackward>();
  } else {
    op.silu ? write.template operator()<true, false>() : write.template operator()<false, false>();
  }
}

}  // namespace

#define SSF_GRADIENTS(T)                                                                                       \
  SSF_VECTORIZE                                                                                                \
  void group_norm_silu_backward(const GroupNormGradient<T>& op, int64_t sample, int64_t first, int64_t last) { \
    run<true>(op, sample, first, last);                                                                        \
  }                                                                                                            \
  SSF_VECTORIZE                                                                                                \
  void group_norm_silu_tangent(const GroupNormGradient<T>& op, int64_t sample, int64_t first, int64_t last) {  \
    run<false>(op, sample, first, last);                                                                       \
  }
SSF_GRADIENTS(float)
SSF_GRADIENTS(BFloat16)
SSF_GRADIENTS(Half)
#undef SSF_GRADIENTS

}  // namespace ssf::cpu

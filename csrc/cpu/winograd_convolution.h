// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace ssf::cpu {

// 3x3 convolution with stride 1 and zero padding of channels_last images by Winograd's F(4x4, 3x3): each 4x4 tile of
// the output is computed from a 6x6 patch of the input, with 36 products per pair of channels instead of 144.
//   y = convolution(x) + bias + scale residual
constexpr int64_t kWinogradPoints = 36;
constexpr int64_t kWinogradTiles = 24;  // tiles that are processed together
constexpr int64_t kWinogradPanel = 16;  // output channels that are contiguous in the weights

template <class T>
struct WinogradConvolution {
  const T* x;         // (batch, height, width, in)
  const float* u;     // (36, out / 16, in, 16): the transformed weights
  const float* bias;  // (out,) or null
  const T* residual;  // like y, or null
  T* y;               // (batch, height, width, out)
  float scale;
  int64_t batch, height, width, in, out;  // in: a multiple of 8; out: of 16

  int64_t tiles_down() const { return (height + 3) / 4; }
  int64_t tiles_across() const { return (width + 3) / 4; }
  int64_t tiles() const { return batch * tiles_down() * tiles_across(); }
};

// Computes tiles [tile_begin, tile_end), numbered over the batch, for the output channels of panels [panel_begin,
// panel_end). A tile's result does not depend on the range.
template <class T>
void winograd_convolution(const WinogradConvolution<T>& op, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                          int64_t panel_end);

}  // namespace ssf::cpu

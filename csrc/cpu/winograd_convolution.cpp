// SPDX-License-Identifier: Apache-2.0
// Winograd's minimal filtering in Toom-Cook form with the points 0, +-11/16, +-3/2 and infinity: its float32 error is
// at most twice that of direct summation; with the common points 0, +-1, +-2 it is four times larger. A block of tiles
// stays in the L2 cache through three stages: patches to points, a matrix product for each point, points to tiles.
#include "cpu/winograd_convolution.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/host_device.h"
#include "cpu/element.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// Neighbouring channels. Never passed by value, because the calling convention differs between processors.
typedef float Lanes __attribute__((vector_size(32)));
typedef float UnalignedLanes __attribute__((vector_size(32), aligned(4)));
constexpr int64_t kLanes = 8;

constexpr float kA = 0.6875f, kB = 1.5f;  // the points
constexpr float kA2 = kA * kA, kB2 = kB * kB;

constexpr int64_t kRows = 6;     // tiles of a register block: 6 x 16 sums in 12 registers
constexpr int64_t kPanels = 4;   // panels whose products are stored at once
constexpr int64_t kPad = 16;     // padding, so that the points' planes do not share lines of the L1 cache
constexpr int64_t kAhead = 128;  // prefetch distance of the weights, in input channels

// Accesses to vectors that straddle two cache lines take a third longer.
struct alignas(64) CacheLine {
  float values[16];
};

struct Plane {
  float* data;
  int64_t row, plane;  // strides of a tile and of a point
};

SSF_HD void load(const float* from, Lanes& to) { to = *reinterpret_cast<const UnalignedLanes*>(from); }

template <class T>
SSF_HD void load(const T* from, Lanes& to) {
  for (int i = 0; i < kLanes; ++i) to[i] = widen(from[i]);
}

SSF_HD void store(const Lanes& from, float* to) { *reinterpret_cast<UnalignedLanes*>(to) = from; }

template <class T>
SSF_HD void store(const Lanes& from, T* to) {
  float values[kLanes];
  store(from, values);
  for (int i = 0; i < kLanes; ++i) narrow(values[i], to[i]);
}

// The values at the six points for six neighbours, `step` apart.
SSF_HD void to_points(const Lanes* d, int step, Lanes* out, int out_step) {
  const Lanes d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
  out[0] = d4 - (kA2 + kB2) * d2 + (kA2 * kB2) * d[0];
  const Lanes even_a = d4 - kB2 * d2, odd_a = kA * (d3 - kB2 * d1);
  out[out_step] = even_a + odd_a;
  out[2 * out_step] = even_a - odd_a;
  const Lanes even_b = d4 - kA2 * d2, odd_b = kB * (d3 - kA2 * d1);
  out[3 * out_step] = even_b + odd_b;
  out[4 * out_step] = even_b - odd_b;
  out[5 * out_step] = d[5 * step] - (kA2 + kB2) * d3 + (kA2 * kB2) * d1;
}

// Four neighbouring outputs from their values at the six points.
SSF_HD void from_points(const Lanes* m, int step, Lanes* out, int out_step) {
  const Lanes sum_a = m[step] + m[2 * step], difference_a = kA * (m[step] - m[2 * step]);
  const Lanes sum_b = m[3 * step] + m[4 * step], difference_b = kB * (m[3 * step] - m[4 * step]);
  out[0] = m[0] + sum_a + sum_b;
  out[out_step] = difference_a + difference_b;
  out[2 * out_step] = kA2 * sum_a + kB2 * sum_b;
  out[3 * out_step] = kA2 * difference_a + kB2 * difference_b + m[5 * step];
}

struct Tile {
  int64_t sample, top, left;
};

template <class T>
Tile tile_at(const WinogradConvolution<T>& op, int64_t index) {
  const int64_t across = op.tiles_across(), of_sample = op.tiles_down() * across, within = index % of_sample;
  return {index / of_sample, within / across * 4, within % across * 4};
}

// Transforms the patches of tiles [begin, end) to points, for all input channels.
template <class T>
SSF_HD void transform_input(const WinogradConvolution<T>& op, int64_t begin, int64_t end, const T* zeros,
                            const Plane& points) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = tile_at(op, index);
    const T* pixel[36];
    for (int64_t i = 0; i < 36; ++i) {
      const int64_t y = tile.top - 1 + i / 6, x = tile.left - 1 + i % 6;
      const bool inside = y >= 0 && y < op.height && x >= 0 && x < op.width;
      pixel[i] = inside ? op.x + ((tile.sample * op.height + y) * op.width + x) * op.in : zeros;
    }
    float* out = points.data + (index - begin) * points.row;
    for (int64_t c = 0; c < op.in; c += kLanes) {
      Lanes columns[36], row[6];
      for (int j = 0; j < 6; ++j) {
        Lanes patch[6];
        for (int i = 0; i < 6; ++i) load(pixel[6 * i + j] + c, patch[i]);
        to_points(patch, 1, columns + j, 6);
      }
      for (int i = 0; i < 6; ++i) {
        to_points(columns + 6 * i, 1, row, 1);
        for (int j = 0; j < 6; ++j) store(row[j], out + (6 * i + j) * points.plane + c);
      }
    }
  }
}

// Sums over the input channels, in order, for kCount tiles x 16 output channels.
template <int kCount>
SSF_HD void multiply(const float* v, int64_t v_row, const float* u, int64_t in, float* m, int64_t m_row) {
  Lanes low[kCount], high[kCount];
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) low[r] = high[r] = Lanes{};
  for (int64_t c = 0; c < in; ++c, u += kWinogradPanel) {
    __builtin_prefetch(u + kAhead * kWinogradPanel);
    Lanes u_low, u_high;
    load(u, u_low);
    load(u + kLanes, u_high);
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const float value = v[r * v_row + c];
      low[r] += value * u_low;
      high[r] += value * u_high;
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) {
    store(low[r], m + r * m_row);
    store(high[r], m + r * m_row + kLanes);
  }
}

// Computes the products of `tiles` tiles and one panel at each point.
SSF_HD void multiply_tiles(const float* v, int64_t v_row, int64_t tiles, const float* u, int64_t in, float* m,
                           int64_t m_row) {
  for (; tiles >= kRows; tiles -= kRows, v += kRows * v_row, m += kRows * m_row) {
    multiply<kRows>(v, v_row, u, in, m, m_row);
  }
  switch (tiles) {
    case 1:
      return multiply<1>(v, v_row, u, in, m, m_row);
    case 2:
      return multiply<2>(v, v_row, u, in, m, m_row);
    case 3:
      return multiply<3>(v, v_row, u, in, m, m_row);
    case 4:
      return multiply<4>(v, v_row, u, in, m, m_row);
    case 5:
      return multiply<5>(v, v_row, u, in, m, m_row);
  }
}

// Transforms the products of tiles [begin, end) to outputs, for `channels` channels from `first` on.
template <class T>
SSF_HD void transform_output(const WinogradConvolution<T>& op, int64_t begin, int64_t end, int64_t first,
                             int64_t channels, const Plane& products) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = tile_at(op, index);
    const int64_t rows = std::min<int64_t>(4, op.height - tile.top),
                  across = std::min<int64_t>(4, op.width - tile.left);
    const int64_t origin = ((tile.sample * op.height + tile.top) * op.width + tile.left) * op.out + first;
    const float* in = products.data + (index - begin) * products.row;
    for (int64_t c = 0; c < channels; c += kLanes) {
      Lanes columns[24], values[4], bias = {};
      if (op.bias) load(op.bias + first + c, bias);
      for (int j = 0; j < 6; ++j) {
        Lanes point[6];
        for (int i = 0; i < 6; ++i) load(in + (6 * i + j) * products.plane + c, point[i]);
        from_points(point, 1, columns + j, 6);
      }
      for (int64_t i = 0; i < rows; ++i) {
        from_points(columns + 6 * i, 1, values, 1);
        for (int64_t j = 0; j < across; ++j) {
          const int64_t at = origin + (i * op.width + j) * op.out + c;
          Lanes value = values[j] + bias;
          if (op.residual) {
            Lanes residual;
            load(op.residual + at, residual);
            value += op.scale * residual;
          }
          store(value, op.y + at);
        }
      }
    }
  }
}

template <class T>
SSF_HD void convolve(const WinogradConvolution<T>& op, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                     int64_t panel_end, const T* zeros, float* workspace) {
  const int64_t width = kPanels * kWinogradPanel, panels = op.out / kWinogradPanel;
  const Plane points{workspace, op.in, kWinogradTiles * op.in + kPad};
  const Plane products{workspace + kWinogradPoints * points.plane, width, kWinogradTiles * width + kPad};
  for (int64_t begin = tile_begin; begin < tile_end; begin += kWinogradTiles) {
    const int64_t end = std::min(begin + kWinogradTiles, tile_end);
    transform_input(op, begin, end, zeros, points);
    for (int64_t first = panel_begin; first < panel_end; first += kPanels) {
      const int64_t last = std::min(first + kPanels, panel_end);
      for (int64_t point = 0; point < kWinogradPoints; ++point) {
        for (int64_t panel = first; panel < last; ++panel) {
          multiply_tiles(points.data + point * points.plane, points.row, end - begin,
                         op.u + (point * panels + panel) * op.in * kWinogradPanel, op.in,
                         products.data + point * products.plane + (panel - first) * kWinogradPanel, products.row);
        }
      }
      transform_output(op, begin, end, first * kWinogradPanel, (last - first) * kWinogradPanel, products);
    }
  }
}

SSF_VECTORIZE void run(const WinogradConvolution<float>& op, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                       int64_t panel_end, const float* zeros, float* workspace) {
  convolve(op, tile_begin, tile_end, panel_begin, panel_end, zeros, workspace);
}

SSF_VECTORIZE void run(const WinogradConvolution<BFloat16>& op, int64_t tile_begin, int64_t tile_end,
                       int64_t panel_begin, int64_t panel_end, const BFloat16* zeros, float* workspace) {
  convolve(op, tile_begin, tile_end, panel_begin, panel_end, zeros, workspace);
}

SSF_VECTORIZE void run(const WinogradConvolution<Half>& op, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                       int64_t panel_end, const Half* zeros, float* workspace) {
  convolve(op, tile_begin, tile_end, panel_begin, panel_end, zeros, workspace);
}

}  // namespace

template <class T>
void winograd_convolution(const WinogradConvolution<T>& op, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                          int64_t panel_end) {
  // Thread-local, because allocating a megabyte in every call is slow.
  static thread_local std::vector<CacheLine> workspace;
  const int64_t needed = kWinogradPoints * (kWinogradTiles * (op.in + kPanels * kWinogradPanel) + 2 * kPad);
  const size_t lines = needed * sizeof(float) / sizeof(CacheLine) + 1;
  if (workspace.size() < lines) workspace.resize(lines);
  const std::vector<T> zeros(op.in, T{});
  run(op, tile_begin, tile_end, panel_begin, panel_end, zeros.data(), workspace.data()->values);
}

template void winograd_convolution(const WinogradConvolution<float>&, int64_t, int64_t, int64_t, int64_t);
template void winograd_convolution(const WinogradConvolution<BFloat16>&, int64_t, int64_t, int64_t, int64_t);
template void winograd_convolution(const WinogradConvolution<Half>&, int64_t, int64_t, int64_t, int64_t);

}  // namespace ssf::cpu

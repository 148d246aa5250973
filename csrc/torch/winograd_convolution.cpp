// SPDX-License-Identifier: Apache-2.0
#include "cpu/winograd_convolution.h"

#include "torch/arguments.h"
#include "torch/memory.h"

namespace ssf::torch_side {
namespace {

template <class T>
void convolve(const Tensor& x, const Tensor& u, const MaybeTensor& bias, const MaybeTensor& residual, double scale,
              const Tensor& y) {
  cpu::WinogradConvolution<T> op{};
  op.x = static_cast<const T*>(x.const_data_ptr());
  op.u = u.const_data_ptr<float>();
  op.bias = bias ? bias->const_data_ptr<float>() : nullptr;
  op.residual = residual ? static_cast<const T*>(residual->const_data_ptr()) : nullptr;
  op.y = static_cast<T*>(y.mutable_data_ptr());
  op.scale = static_cast<float>(scale);
  op.batch = x.size(0), op.height = x.size(2), op.width = x.size(3), op.in = x.size(1);
  op.out = u.size(1) * cpu::kWinogradPanel;
  // Equal shares of tiles, or of output channels if there are too few tiles.
  const int64_t threads = torch::stable::get_num_threads(), panels = u.size(1), tiles = op.tiles();
  const int64_t wanted = (tiles + cpu::kWinogradTiles - 1) / cpu::kWinogradTiles;
  const int64_t splits = wanted < threads ? std::min(threads, panels) : 1;
  const int64_t blocks = splits > 1 ? wanted : (wanted + threads - 1) / threads * threads;
  const int64_t share = (tiles + blocks - 1) / blocks;
  torch::stable::parallel_for(0, blocks * splits, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = std::min(i % blocks * share, tiles), split = i / blocks;
      cpu::winograd_convolution(op, begin, std::min(begin + share, tiles), split * panels / splits,
                                (split + 1) * panels / splits);
    }
  });
}

Tensor winograd_convolution_cpu(const Tensor x, const Tensor u, MaybeTensor bias, MaybeTensor residual, double scale) {
  const ScalarType dtype = x.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, "x is ", Shown{x},
        "; it must be float32, bfloat16 or float16");
  require_four(x, "x");
  check(is_channels_last(x), "x is ", Shown{x}, "; it must be channels_last");
  require_memory(x, dtype, "x");
  require(x, u, ScalarType::Float, "weight");
  require_four(u, "weight");
  check(u.size(0) == cpu::kWinogradPoints && u.size(2) == x.size(1) && u.size(3) == cpu::kWinogradPanel &&
            x.size(1) % 8 == 0,
        "weight is ", Shown{u}, "; for x of ", x.size(1), " channels it must be (", cpu::kWinogradPoints, ", K / ",
        cpu::kWinogradPanel, ", ", x.size(1), ", ", cpu::kWinogradPanel, "), with channels in multiples of 8");
  const int64_t channels = u.size(1) * cpu::kWinogradPanel;
  if (bias) {
    require(x, *bias, ScalarType::Float, "bias");
    check(bias->dim() == 1 && bias->size(0) == channels, "bias is ", Shown{*bias}, "; it must be (", channels, ",)");
  }
  const Tensor y = images({x.size(0), channels, x.size(2), x.size(3)}, true, dtype);
  if (residual) {
    check(residual->scalar_type() == dtype && same_shape(*residual, y) && is_channels_last(*residual), "residual is ",
          Shown{*residual}, "; it must be channels_last like the result, which is ", Shown{y});
    require_with(x, *residual, "residual");
    require_memory(*residual, dtype, "residual");
  }
  if (y.numel() == 0) return y;
  if (dtype == ScalarType::Float) convolve<float>(x, u, bias, residual, scale, y);
  if (dtype == ScalarType::BFloat16) convolve<cpu::BFloat16>(x, u, bias, residual, scale, y);
  if (dtype == ScalarType::Half) convolve<cpu::Half>(x, u, bias, residual, scale, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("winograd_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float scale) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) {
  m.impl("winograd_convolution", TORCH_BOX(&winograd_convolution_cpu));
}

}  // namespace ssf::torch_side

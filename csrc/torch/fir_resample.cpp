// SPDX-License-Identifier: Apache-2.0
#include "cpu/fir_resample.h"

#include "torch/arguments.h"
#include "torch/filter.h"
#include "torch/memory.h"

namespace ssf::torch_side {
namespace {

// As in scoresde_fast/ops/fir_resample.py: if the memory has both formats (one pixel or channel), the last stride
// decides.
bool keeps_channels_last(const Tensor& x) { return x.stride(3) != 1 && is_channels_last(x); }

cpu::Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return cpu::Scalar::kFloat;
    case ScalarType::BFloat16:
      return cpu::Scalar::kBFloat16;
    case ScalarType::Half:
      return cpu::Scalar::kHalf;
    default:
      check(x.scalar_type() == ScalarType::Double, "x is ", Shown{x},
            "; it must be float32, bfloat16, float16 or float64");
      return cpu::Scalar::kDouble;
  }
}

Tensor fir_resample_cpu(const Tensor x, std::vector<double> taps, std::string direction, int64_t offset, double gain) {
  const cpu::Scalar scalar = scalar_of(x);
  require_four(x, "x");
  const bool last = keeps_channels_last(x), up = direction == "up";
  const int64_t count = static_cast<int64_t>(taps.size()), channels = x.size(1);
  check(last || x.is_contiguous(), "x is ", Shown{x}, "; it must be contiguous or channels_last");
  require_memory(x, x.scalar_type(), "x");
  check(up || direction == "down", "direction is '", direction, "'; it must be 'up' or 'down'");
  const double sum = require_filter(x, taps, direction);
  require_range(offset, 0, count - 1, "offset");

  cpu::FirResample op{last ? x.size(0) : x.size(0) * channels,
                      x.size(2),
                      x.size(3),
                      last ? channels : 1,
                      up,
                      static_cast<int>(count),
                      static_cast<int>(offset),
                      {},
                      {}};
  for (int64_t t = 0; t < count; ++t) {
    op.row_taps[t] = taps[t] / sum;
    op.column_taps[t] = gain * op.row_taps[t];
  }
  const Tensor out = images({x.size(0), channels, op.out_height(), op.out_width()}, last, x.scalar_type());
  if (out.numel() == 0) return out;

  const void* from = x.const_data_ptr();
  void* to = out.mutable_data_ptr();
  // kPiece / 4 elements; each takes at most a quarter of the time of an element of noise.
  const int64_t grain = std::max<int64_t>(1, kPiece / 4 / (op.out_width() * op.inner));
  torch::stable::parallel_for(0, op.planes * op.out_height(), grain,
                              [&](int64_t begin, int64_t end) { cpu::fir_resample(op, scalar, from, to, begin, end); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("fir_resample(Tensor x, float[] taps, str direction, int offset, float gain) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("fir_resample", TORCH_BOX(&fir_resample_cpu)); }

}  // namespace ssf::torch_side

// SPDX-License-Identifier: Apache-2.0
#include "cpu/fir_resample.h"

#include <numeric>
#include <string>
#include <vector>

#include "torch/arguments.h"
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
      STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double,
                      "fir_resample: x must be float32, bfloat16, float16 or float64");
      return cpu::Scalar::kDouble;
  }
}

Tensor fir_resample_cpu(const Tensor x, std::vector<double> taps, std::string direction, int64_t offset, double gain) {
  STD_TORCH_CHECK(x.dim() == 4, "fir_resample: x must be (B, C, H, W)");
  const bool last = keeps_channels_last(x), up = direction == "up";
  const int64_t count = static_cast<int64_t>(taps.size()), channels = x.size(1);
  STD_TORCH_CHECK(last || x.is_contiguous(), "fir_resample: x must be contiguous or channels_last");
  STD_TORCH_CHECK(up || direction == "down", "fir_resample: the direction must be up or down");
  STD_TORCH_CHECK(up || (x.size(2) % 2 == 0 && x.size(3) % 2 == 0), "fir_resample: down halves even sizes only");
  STD_TORCH_CHECK(count >= 2 && count <= cpu::kMaxTaps && offset >= 0 && offset < count,
                  "fir_resample: there must be 2 to 12 taps and an offset below their number");

  cpu::FirResample op{last ? x.size(0) : x.size(0) * channels,
                      x.size(2),
                      x.size(3),
                      last ? channels : 1,
                      up,
                      static_cast<int>(count),
                      static_cast<int>(offset),
                      {},
                      {}};
  const double sum = std::accumulate(taps.begin(), taps.end(), 0.0);
  for (int64_t t = 0; t < count; ++t) {
    op.row_taps[t] = taps[t] / sum;
    op.column_taps[t] = gain * op.row_taps[t];
  }
  const cpu::Scalar scalar = scalar_of(x);
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

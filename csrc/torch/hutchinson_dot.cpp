// SPDX-License-Identifier: Apache-2.0
#include "cpu/hutchinson_dot.h"

#include <vector>

#include "torch/step_arguments.h"

namespace ssf::torch_side {
namespace {

void hutchinson_dot_cpu(Tensor divergence, const Tensor tangent, const Tensor ids, const Tensor coefficients,
                        const MaybeTensor counter, int64_t offset, int64_t draw, bool signs, int64_t run_seed, bool) {
  require_divergence(divergence, tangent);
  require_draw(draw);
  const int64_t samples = tangent.size(0), elements = sample_elements(tangent);
  const cpu::Dtype dtype = network_dtype(divergence, tangent, "tangent");
  const void* values = tangent.const_data_ptr();
  const int64_t* id = sample_ids(divergence, ids, samples);
  const RowIndex index = row_index(divergence, coefficients, DotColumns::width, counter, offset);
  const float* row = host_coefficients(coefficients, DotColumns::width, host_row(index));
  const int64_t pieces = std::max<int64_t>(1, (elements + kPiece - 1) / kPiece);
  std::vector<double> partial(samples * pieces);
  over_pieces(samples, elements, [&](int64_t sample, int64_t begin, int64_t end) {
    const cpu::Field field{static_cast<uint64_t>(run_seed), static_cast<uint64_t>(id[sample]),
                           static_cast<uint32_t>(draw)};
    partial[sample * pieces + begin / kPiece] =
        cpu::hutchinson_dot(values, dtype, sample * elements, field, signs, begin, end);
  });
  double* sums = divergence.mutable_data_ptr<double>();
  for (int64_t sample = 0; sample < samples; ++sample) {
    double dot = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) dot += partial[sample * pieces + piece];
    sums[sample] += row[DotColumns::constant] + row[DotColumns::factor] * dot;
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def(
      "hutchinson_dot(Tensor(a!) divergence, Tensor tangent, Tensor sample_ids, Tensor coefficients, Tensor? counter, "
      "int offset, int draw, bool signs, int run_seed, bool precise) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("hutchinson_dot", TORCH_BOX(&hutchinson_dot_cpu)); }

}  // namespace ssf::torch_side

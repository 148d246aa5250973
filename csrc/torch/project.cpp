// SPDX-License-Identifier: Apache-2.0
#include "cpu/project.h"

#include "torch/arguments.h"

namespace ssf::torch_side {
namespace {

void project_cpu(Tensor state, const Tensor known, const Tensor mask, const Tensor ids, const Tensor coefficients,
                 const Tensor control, const MaybeTensor counter, int64_t offset, bool pairs, int64_t run_seed, bool) {
  require(state, state, ScalarType::Float, "state");
  require(state, known, ScalarType::Float, "known");
  require(state, mask, ScalarType::Bool, "mask");
  require_four(state, "state");
  require_four(known, "known");
  require_shape_of(known, "known", mask, "mask");
  cpu::Projection p{};
  const int64_t halves = pairs ? 2 : 1;
  bool fits = known.size(0) == state.size(0);
  for (int i = 0; i < 3; ++i) {
    p.means[i] = known.size(i + 1);
    const int64_t size = state.size(i + 1), means = p.means[i] * (i == 0 ? halves : 1);
    fits = fits && means > 0 && size % means == 0;
    p.block[i] = fits ? size / means : 0;
  }
  check(fits, "known is ", Shown{known}, "; it must hold the means over equal blocks of state, which is ", Shown{state},
        pairs ? " with two halves" : "");
  p.sample_ids = sample_ids(state, ids, state.size(0));
  const RowIndex index = row_index(state, coefficients, LevelColumns::width, counter, offset);
  require_control(state, control, coefficients);
  const int64_t row = host_row(index);
  p.row = host_coefficients(coefficients, LevelColumns::width, row);
  p.draw = static_cast<uint32_t>(host_control(control, row)[ControlColumns::draw]);
  p.known = known.const_data_ptr<float>();
  p.mask = static_cast<const uint8_t*>(mask.const_data_ptr());
  p.state = state.mutable_data_ptr<float>();
  p.run_seed = static_cast<uint64_t>(run_seed);
  p.pairs = pairs;
  over_pieces(state.size(0), p.count(),
              [&](int64_t sample, int64_t begin, int64_t end) { cpu::project(p, sample, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def(
      "project(Tensor(a!) state, Tensor known, Tensor mask, Tensor sample_ids, Tensor coefficients, Tensor control, "
      "Tensor? counter, int offset, bool pairs, int run_seed, bool precise) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("project", TORCH_BOX(&project_cpu)); }

}  // namespace ssf::torch_side

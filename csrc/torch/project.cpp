// SPDX-License-Identifier: Apache-2.0
#include "cpu/project.h"

#include "torch/arguments.h"

namespace ssf::torch_side {
namespace {

void project_cpu(Tensor state, const Tensor known, const Tensor mask, const Tensor ids, const Tensor coefficients,
                 const Tensor control, const MaybeTensor counter, int64_t offset, bool pairs, int64_t run_seed, bool) {
  require(state, ScalarType::Float, "state");
  require(known, ScalarType::Float, "known");
  require(mask, ScalarType::Bool, "mask");
  STD_TORCH_CHECK(state.dim() == 4 && known.dim() == 4 && known.size(0) == state.size(0), "both must be (B, C, H, W)");
  STD_TORCH_CHECK(mask.numel() == known.numel(), "mask must be like known");
  cpu::Projection p{};
  const int64_t image[3] = {state.size(1) / (pairs ? 2 : 1), state.size(2), state.size(3)};
  for (int i = 0; i < 3; ++i) {
    p.means[i] = known.size(i + 1);
    STD_TORCH_CHECK(p.means[i] > 0 && image[i] % p.means[i] == 0, "the state must consist of equal blocks");
    p.block[i] = image[i] / p.means[i];
  }
  STD_TORCH_CHECK(state.numel() == state.size(0) * p.count() * p.block_size() * (pairs ? 2 : 1),
                  "a pair has two halves");
  p.state = state.mutable_data_ptr<float>();
  p.known = known.const_data_ptr<float>();
  p.mask = static_cast<const bool*>(mask.const_data_ptr());
  p.sample_ids = sample_ids(ids, state.size(0));
  const RowIndex index = row_index(coefficients, counter, offset);
  p.row = host_row(coefficients, LevelColumns::width, index);
  p.draw = static_cast<uint32_t>(host_control(control, index)[ControlColumns::draw]);
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

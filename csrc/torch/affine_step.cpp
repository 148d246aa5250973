// SPDX-License-Identifier: Apache-2.0
#include "cpu/affine_step.h"

#include "torch/arguments.h"

namespace ssf::torch_side {
namespace {

using StepKernel = void (*)(const cpu::AffineStep&, int64_t, int64_t, int64_t);

// `halves`: 1 for single states, 2 for pairs, whose network output has half the elements.
template <StepKernel kernel, int64_t width, int halves>
void step_cpu(Tensor state, MaybeTensor saved, MaybeTensor history, const MaybeTensor output, const MaybeTensor ids,
              const Tensor coefficients, const Tensor control, const MaybeTensor counter, int64_t offset,
              int64_t earlier, int64_t run_seed, bool) {
  require(state, ScalarType::Float, "state");
  cpu::AffineStep step{};
  step.samples = state.size(0);
  step.elements = sample_elements(state);
  step.state = state.mutable_data_ptr<float>();
  if (saved) {
    require(*saved, ScalarType::Float, "saved");
    STD_TORCH_CHECK(saved->numel() == state.numel(), "saved must be like state");
    step.saved = saved->mutable_data_ptr<float>();
  }
  if (history) {
    require(*history, ScalarType::Float, "history");
    step.ring = history->size(0);
    STD_TORCH_CHECK(step.ring >= std::max<int64_t>(earlier, 1) && history->numel() == step.ring * state.numel(),
                    "history must hold `earlier` states");
    step.history = history->mutable_data_ptr<float>();
    step.earlier = static_cast<int>(earlier);
  }
  if (output) {
    STD_TORCH_CHECK(output->numel() * halves == state.numel(), "the network's output must fit the state");
    step.output_dtype = network_dtype(*output);
    step.output = output->const_data_ptr();
  }
  if (ids) step.sample_ids = sample_ids(*ids, step.samples);
  const RowIndex index = row_index(coefficients, counter, offset);
  step.row = host_row(coefficients, width, index);
  step.control = host_control(control, index);
  step.run_seed = static_cast<uint64_t>(run_seed);
  over_pieces(step.samples, step.elements / halves,
              [&](int64_t sample, int64_t begin, int64_t end) { kernel(step, sample, begin, end); });
}

#define SSF_STEP_ARGUMENTS                                                                                     \
  "(Tensor(a!) state, Tensor(b!)? saved, Tensor(c!)? history, Tensor? network_output, Tensor? sample_ids, "    \
  "Tensor coefficients, Tensor control, Tensor? counter, int offset, int earlier, int run_seed, bool precise)" \
  " -> ()"

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("affine_step" SSF_STEP_ARGUMENTS);
  m.def("affine_step_pair" SSF_STEP_ARGUMENTS);
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) {
  m.impl("affine_step", TORCH_BOX((&step_cpu<cpu::affine_step, Columns::width, 1>)));
  m.impl("affine_step_pair", TORCH_BOX((&step_cpu<cpu::affine_step_pair, PairColumns::width, 2>)));
}

}  // namespace ssf::torch_side

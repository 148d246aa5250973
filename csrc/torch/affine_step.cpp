// SPDX-License-Identifier: Apache-2.0
#include "cpu/affine_step.h"

#include "torch/step_arguments.h"

namespace ssf::torch_side {
namespace {

using StepKernel = void (*)(const cpu::AffineStep&, int64_t, int64_t, int64_t);

// `halves`: 1 for single states, 2 for pairs, whose network output has half the elements.
template <StepKernel kernel, int64_t width, int halves>
void step_cpu(Tensor state, MaybeTensor saved, MaybeTensor history, const MaybeTensor output, const MaybeTensor ids,
              const Tensor coefficients, const Tensor control, const MaybeTensor counter, int64_t offset,
              int64_t earlier, int64_t run_seed, bool) {
  require_step(state, saved, history, output, earlier, halves);
  cpu::AffineStep step{};
  step.samples = state.size(0);
  step.elements = sample_elements(state);
  step.earlier = static_cast<int>(earlier);
  if (output) {
    step.output_dtype = network_dtype(state, *output, "network_output");
    step.output = output->const_data_ptr();
  }
  if (ids) step.sample_ids = sample_ids(state, *ids, step.samples);
  const RowIndex index = row_index(state, coefficients, width, counter, offset);
  require_control(state, control, coefficients);
  const int64_t row = host_row(index);
  step.row = host_coefficients(coefficients, width, row);
  step.control = host_control(control, row);
  if (history) {
    const int32_t slot = step.control[ControlColumns::slot];
    check(slot >= 0, "the slot in row ", row, " of control is ", slot, "; it must be at least 0");
    step.ring = history->size(0);
    step.history = history->mutable_data_ptr<float>();
  }
  if (saved) step.saved = saved->mutable_data_ptr<float>();
  step.state = state.mutable_data_ptr<float>();
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

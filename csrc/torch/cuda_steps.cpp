// SPDX-License-Identifier: Apache-2.0
// Registration of the steps for CUDA.
#ifdef SSF_WITH_CUDA

#include "cuda/affine_step.h"
#include "cuda/affine_step_pair.h"
#include "cuda/langevin.h"
#include "torch/cuda.h"
#include "torch/step_arguments.h"

namespace ssf::torch_side {
namespace {

using StepLaunch = int (*)(const cuda::Step&, void*);

// `halves`: 1 for single states, 2 for pairs, whose network output has half the elements.
template <StepLaunch launch, int64_t width, int halves>
void step_cuda(Tensor state, MaybeTensor saved, MaybeTensor history, const MaybeTensor output, const MaybeTensor ids,
               const Tensor coefficients, const Tensor control, const MaybeTensor counter, int64_t offset,
               int64_t earlier, int64_t run_seed, bool precise) {
  require_cuda(state, "state");
  require_step(state, saved, history, output, earlier, halves);
  cuda::Step step{};
  step.samples = state.size(0);
  step.elements = sample_elements(state);
  step.earlier = static_cast<int>(earlier);
  if (output) {
    step.output_type = network_type(state, *output, "network_output");
    step.output = output->const_data_ptr();
  }
  if (ids) step.field = field(state, *ids, step.samples, run_seed, 0, normal_noise(precise));
  step.table = device_table(state, coefficients, control, width, counter, offset);
  if (history) {
    step.history_length = history->size(0);
    step.history = history->mutable_data_ptr<float>();
  }
  if (saved) step.saved = saved->mutable_data_ptr<float>();
  step.state = state.mutable_data_ptr<float>();
  launch_on(state, "affine_step", [&](void* stream) { return launch(step, stream); });
}

Tensor norms_cuda(const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                  const MaybeTensor counter, int64_t offset, int64_t run_seed, bool precise) {
  require_cuda(output, "network_output");
  cuda::LangevinNorms at{};
  at.samples = batch_of(output, "network_output");
  at.elements = sample_elements(output);
  at.output_type = network_type(output, output, "network_output");
  at.output = output.const_data_ptr();
  at.table = device_table(output, coefficients, control, Columns::width, counter, offset);
  at.field = field(output, ids, at.samples, run_seed, 0, normal_noise(precise));
  Tensor norms = new_matrix(output, at.samples, 2, ScalarType::Float);
  const int64_t parts = cuda::langevin_norms_parts(at.elements);
  const Tensor scratch = new_matrix(output, parts > 1 ? at.samples * parts : 0, 2, ScalarType::Float);
  at.norms = norms.mutable_data_ptr<float>();
  at.parts = parts > 1 ? scratch.mutable_data_ptr<float>() : nullptr;
  launch_on(output, "langevin_norms", [&](void* stream) { return cuda::langevin_norms(at, stream); });
  return norms;
}

void langevin_step_cuda(Tensor state, const Tensor output, const Tensor norms, const Tensor ids,
                        const Tensor coefficients, const Tensor control, const MaybeTensor counter, int64_t offset,
                        bool per_sample, int64_t run_seed, bool precise) {
  require_cuda(state, "state");
  require_langevin_state(state, output);
  cuda::LangevinStep at{};
  at.samples = state.size(0);
  at.elements = sample_elements(state);
  require_norms(state, norms, at.samples);
  at.output_type = network_type(state, output, "network_output");
  at.output = output.const_data_ptr();
  at.norms = norms.const_data_ptr<float>();
  const Tensor mean = new_matrix(state, per_sample ? 0 : 1, 2, ScalarType::Float);
  at.mean = per_sample ? nullptr : mean.mutable_data_ptr<float>();
  at.table = device_table(state, coefficients, control, Columns::width, counter, offset);
  at.field = field(state, ids, at.samples, run_seed, 0, normal_noise(precise));
  at.state = state.mutable_data_ptr<float>();
  launch_on(state, "langevin_step", [&](void* stream) { return cuda::langevin_step(at, stream); });
}

void langevin_cuda(Tensor state, const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                   const MaybeTensor counter, int64_t offset, bool per_sample, int64_t run_seed, bool precise) {
  require_cuda(state, "state");
  require_langevin_state(state, output);
  const Tensor norms = norms_cuda(output, ids, coefficients, control, counter, offset, run_seed, precise);
  langevin_step_cuda(state, output, norms, ids, coefficients, control, counter, offset, per_sample, run_seed, precise);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CUDA, m) {
  m.impl("affine_step", TORCH_BOX((&step_cuda<cuda::affine_step, Columns::width, 1>)));
  m.impl("affine_step_pair", TORCH_BOX((&step_cuda<cuda::affine_step_pair, PairColumns::width, 2>)));
  m.impl("langevin_norms", TORCH_BOX(&norms_cuda));
  m.impl("langevin_step", TORCH_BOX(&langevin_step_cuda));
  m.impl("langevin", TORCH_BOX(&langevin_cuda));
}

}  // namespace ssf::torch_side

#endif

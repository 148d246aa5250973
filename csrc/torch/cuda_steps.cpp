// SPDX-License-Identifier: Apache-2.0
// Registration of the steps for CUDA.
#ifdef SSF_WITH_CUDA

#include "cuda/affine_step.h"
#include "cuda/affine_step_pair.h"
#include "cuda/langevin.h"
#include "torch/cuda.h"

namespace ssf::torch_side {
namespace {

using StepLaunch = int (*)(const cuda::Step&, void*);

// `halves`: 1 for single states, 2 for pairs, whose network output has half the elements.
template <StepLaunch launch, int64_t width, int halves>
void step_cuda(Tensor state, MaybeTensor saved, MaybeTensor history, const MaybeTensor output, const MaybeTensor ids,
               const Tensor coefficients, const Tensor control, const MaybeTensor counter, int64_t offset,
               int64_t earlier, int64_t run_seed, bool precise) {
  require(state, ScalarType::Float, "state");
  cuda::Step step{};
  step.samples = state.size(0);
  step.elements = sample_elements(state);
  step.state = state.mutable_data_ptr<float>();
  if (saved) {
    require(*saved, ScalarType::Float, "saved");
    require_with(state, *saved, "saved");
    STD_TORCH_CHECK(saved->numel() == state.numel(), "saved must be like state");
    step.saved = saved->mutable_data_ptr<float>();
  }
  if (history) {
    require(*history, ScalarType::Float, "history");
    require_with(state, *history, "history");
    step.history_length = history->size(0);
    STD_TORCH_CHECK(
        step.history_length >= std::max<int64_t>(earlier, 1) && history->numel() == step.history_length * state.numel(),
        "history must hold `earlier` states");
    step.history = history->mutable_data_ptr<float>();
    step.earlier = static_cast<int>(earlier);
  }
  if (output) {
    require_with(state, *output, "the network's output");
    STD_TORCH_CHECK(output->numel() * halves == state.numel(), "the network's output must fit the state");
    step.output_type = network_type(*output);
    step.output = output->const_data_ptr();
  }
  if (ids) step.field = field(state, *ids, step.samples, run_seed, 0, normal_noise(precise));
  step.table = device_table(state, coefficients, control, width, counter, offset);
  launch_on(state, "affine_step", [&](void* stream) { return launch(step, stream); });
}

Tensor norms_cuda(const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                  const MaybeTensor counter, int64_t offset, int64_t run_seed, bool precise) {
  cuda::LangevinNorms at{};
  at.samples = output.size(0);
  at.elements = sample_elements(output);
  at.output_type = network_type(output);
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
  require(state, ScalarType::Float, "state");
  require(norms, ScalarType::Float, "norms");
  require_with(state, output, "the network's output");
  require_with(state, norms, "norms");
  cuda::LangevinStep at{};
  at.samples = state.size(0);
  at.elements = sample_elements(state);
  STD_TORCH_CHECK(state.numel() == output.numel() && norms.numel() == 2 * at.samples, "langevin_step: wrong sizes");
  at.state = state.mutable_data_ptr<float>();
  at.output_type = network_type(output);
  at.output = output.const_data_ptr();
  at.norms = norms.const_data_ptr<float>();
  const Tensor mean = new_matrix(state, per_sample ? 0 : 1, 2, ScalarType::Float);
  at.mean = per_sample ? nullptr : mean.mutable_data_ptr<float>();
  at.table = device_table(state, coefficients, control, Columns::width, counter, offset);
  at.field = field(state, ids, at.samples, run_seed, 0, normal_noise(precise));
  launch_on(state, "langevin_step", [&](void* stream) { return cuda::langevin_step(at, stream); });
}

void langevin_cuda(Tensor state, const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                   const MaybeTensor counter, int64_t offset, bool per_sample, int64_t run_seed, bool precise) {
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

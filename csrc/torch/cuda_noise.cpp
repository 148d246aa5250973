// SPDX-License-Identifier: Apache-2.0
// Registration of the noise operations and of hutchinson_dot for CUDA.
#ifdef SSF_WITH_CUDA

#include "cuda/hutchinson_dot.h"
#include "cuda/normal.h"
#include "cuda/rademacher.h"
#include "torch/cuda.h"
#include "torch/step_arguments.h"

namespace ssf::torch_side {
namespace {

Tensor normal_cuda(const Tensor ids, int64_t run_seed, int64_t draw, int64_t elements, bool precise) {
  const int64_t samples = batch_of(ids, "sample_ids");
  require_draw(draw);
  require_elements(elements);
  const cuda::Field made = field(ids, ids, samples, run_seed, draw, normal_noise(precise));
  Tensor out = new_matrix(ids, samples, elements, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  launch_on(ids, "normal", [&](void* stream) { return cuda::normal(values, samples, elements, made, stream); });
  return out;
}

Tensor rademacher_cuda(const Tensor ids, int64_t run_seed, int64_t draw, int64_t elements) {
  const int64_t samples = batch_of(ids, "sample_ids");
  require_draw(draw);
  require_elements(elements);
  const cuda::Field made = field(ids, ids, samples, run_seed, draw, cuda::Noise::signs);
  Tensor out = new_matrix(ids, samples, elements, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  launch_on(ids, "rademacher", [&](void* stream) { return cuda::rademacher(values, samples, elements, made, stream); });
  return out;
}

void hutchinson_dot_cuda(Tensor divergence, const Tensor tangent, const Tensor ids, const Tensor coefficients,
                         const MaybeTensor counter, int64_t offset, int64_t draw, bool signs, int64_t run_seed,
                         bool precise) {
  require_cuda(divergence, "divergence");
  require_divergence(divergence, tangent);
  require_draw(draw);
  cuda::HutchinsonDot at{};
  at.samples = tangent.size(0);
  at.elements = sample_elements(tangent);
  at.tangent_type = network_type(divergence, tangent, "tangent");
  at.tangent = tangent.const_data_ptr();
  at.index = row_index(divergence, coefficients, DotColumns::width, counter, offset);
  at.coefficients = coefficients.const_data_ptr<float>();
  at.field = field(divergence, ids, at.samples, run_seed, draw, signs ? cuda::Noise::signs : normal_noise(precise));
  at.divergence = divergence.mutable_data_ptr<double>();
  const int64_t parts = cuda::hutchinson_dot_parts(at.elements);
  const Tensor scratch = new_matrix(divergence, parts > 1 ? at.samples : 0, parts, ScalarType::Double);
  at.parts = parts > 1 ? scratch.mutable_data_ptr<double>() : nullptr;
  launch_on(divergence, "hutchinson_dot", [&](void* stream) { return cuda::hutchinson_dot(at, stream); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CUDA, m) {
  m.impl("normal", TORCH_BOX(&normal_cuda));
  m.impl("rademacher", TORCH_BOX(&rademacher_cuda));
  m.impl("hutchinson_dot", TORCH_BOX(&hutchinson_dot_cuda));
}

}  // namespace ssf::torch_side

#endif

// SPDX-License-Identifier: Apache-2.0
#include "cuda/affine_step_pair.cuh"
#include "cuda/affine_step_pair.h"
#include "cuda/launch.cuh"

namespace ssf::cuda {

int affine_step_pair(const Step& step, void* stream) {
  const int64_t half = step.elements / 2;
  const bool vector = whole_quads(half, step.output_type, step.state, step.saved, step.history, step.output);
  const bool lean = !step.saved && !step.history;
  return choose<Noise::none, Noise::fast, Noise::precise>(step.field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    return choose<Type::none, Type::float32, Type::bfloat16, Type::float16>(step.output_type, [&](auto type) {
      constexpr Type OUTPUT = decltype(type)::value;
      const auto kernel = !vector ? affine_step_pair_kernel<NOISE, OUTPUT, false, false, kThreads>
                          : lean  ? affine_step_pair_kernel<NOISE, OUTPUT, true, true, kThreads>
                                  : affine_step_pair_kernel<NOISE, OUTPUT, false, true, kThreads>;
      return launch_over(step.samples, half, kStepQuads<NOISE>, kThreads, stream, kernel, step,
                         PhiloxKeys(step.field.run_seed));
    });
  });
}

}  // namespace ssf::cuda

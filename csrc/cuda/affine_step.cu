// SPDX-License-Identifier: Apache-2.0
#include "cuda/affine_step.cuh"
#include "cuda/affine_step.h"
#include "cuda/launch.cuh"

namespace ssf::cuda {

int affine_step(const Step& given, void* stream) {
  Step step = given;
  // Without noise the batch is treated as one sample, see the kernel.
  if (step.field.noise == Noise::none) {
    step.elements *= step.samples;
    step.samples = 1;
  }
  const bool vector = whole_quads(step.elements, step.output_type, step.state, step.saved, step.history, step.output);
  const bool lean = !step.saved && !step.history;
  return choose<Noise::none, Noise::fast, Noise::precise>(step.field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    return choose<Type::none, Type::float32, Type::bfloat16, Type::float16>(step.output_type, [&](auto type) {
      constexpr Type OUTPUT = decltype(type)::value;
      const auto kernel = !vector ? affine_step_kernel<NOISE, OUTPUT, false, false, kThreads>
                          : lean  ? affine_step_kernel<NOISE, OUTPUT, true, true, kThreads>
                                  : affine_step_kernel<NOISE, OUTPUT, false, true, kThreads>;
      const PhiloxKeys keys(step.field.run_seed);
      if constexpr (NOISE == Noise::none)
        return launch_blocks(ceil_divide(step.elements, 4 * kStepQuads<NOISE> * kThreads), stream, kernel, step, keys);
      else
        return launch_over(step.samples, step.elements, kStepQuads<NOISE>, kThreads, stream, kernel, step, keys);
    });
  });
}

}  // namespace ssf::cuda

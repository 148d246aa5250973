// SPDX-License-Identifier: Apache-2.0
#include "cuda/langevin_step.cuh"
#include "cuda/langevin_step.h"
#include "cuda/launch.cuh"

namespace ssf::cuda {

int langevin_step(const LangevinStep& at, void* stream) {
  if (at.mean && at.samples) {
    langevin_mean_kernel<kThreads>
        <<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(at.mean, at.norms, at.samples);
    if (const int error = cudaGetLastError()) return error;
  }
  const bool vector = whole_quads(at.elements, at.output_type, at.state, at.output);
  return choose<Noise::fast, Noise::precise>(at.field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    return choose<Type::float32, Type::bfloat16, Type::float16>(at.output_type, [&](auto type) {
      constexpr Type OUTPUT = decltype(type)::value;
      const auto kernel = vector ? langevin_step_kernel<NOISE, OUTPUT, true, kThreads>
                                 : langevin_step_kernel<NOISE, OUTPUT, false, kThreads>;
      return launch_over(at.samples, at.elements, 2, kThreads, stream, kernel, at, PhiloxKeys(at.field.run_seed));
    });
  });
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cuda/langevin.cuh"
#include "cuda/launch.cuh"

namespace ssf::cuda {
namespace {

// 4096 elements per block: a 3x32x32 image is one block, and larger images give enough blocks.
constexpr int kRounds = 4;

}  // namespace

int64_t langevin_norms_parts(int64_t elements) {
  return std::max<int64_t>(1, ceil_divide(elements, 8 * kThreads * kRounds));
}

int langevin_norms(const LangevinNorms& at, void* stream) {
  const bool vector = whole_quads(at.elements, at.output_type, at.output);
  const int error = choose<Noise::fast, Noise::precise>(at.field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    return choose<Type::float32, Type::bfloat16, Type::float16>(at.output_type, [&](auto type) {
      constexpr Type OUTPUT = decltype(type)::value;
      const auto kernel = vector ? langevin_norms_kernel<NOISE, OUTPUT, true, kRounds, kThreads>
                                 : langevin_norms_kernel<NOISE, OUTPUT, false, kRounds, kThreads>;
      // A sample without elements has a sum, too.
      const int64_t elements = std::max<int64_t>(1, at.elements);
      return launch_over(at.samples, elements, 2 * kRounds, kThreads, stream, kernel, at,
                         PhiloxKeys(at.field.run_seed));
    });
  });
  if (error || !at.parts) return error;
  return launch_warps(at.samples, stream, langevin_norms_sum_kernel<kThreads>, at.norms,
                      static_cast<const float*>(at.parts), at.samples, langevin_norms_parts(at.elements));
}

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

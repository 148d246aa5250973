// SPDX-License-Identifier: Apache-2.0
#include "cuda/launch.cuh"
#include "cuda/normal.cuh"
#include "cuda/normal.h"

namespace ssf::cuda {

int normal(float* out, int64_t samples, int64_t elements, const Field& field, void* stream) {
  return choose<Noise::fast, Noise::precise>(field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    const auto kernel = whole_quads(elements, Type::float32, out) ? field_kernel<NOISE, true, kThreads>
                                                                  : field_kernel<NOISE, false, kThreads>;
    return launch_over(samples, elements, 2, kThreads, stream, kernel, out, samples, elements, field,
                       PhiloxKeys(field.run_seed));
  });
}

}  // namespace ssf::cuda

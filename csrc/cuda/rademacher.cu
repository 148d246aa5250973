// SPDX-License-Identifier: Apache-2.0
#include "cuda/launch.cuh"
#include "cuda/normal.cuh"
#include "cuda/rademacher.h"

namespace ssf::cuda {

int rademacher(float* out, int64_t samples, int64_t elements, const Field& field, void* stream) {
  const auto kernel = whole_quads(elements, Type::float32, out) ? field_kernel<Noise::signs, true, kThreads>
                                                                : field_kernel<Noise::signs, false, kThreads>;
  return launch_over(samples, elements, 2, kThreads, stream, kernel, out, samples, elements, field,
                     PhiloxKeys(field.run_seed));
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cuda/hutchinson_dot.cuh"
#include "cuda/hutchinson_dot.h"
#include "cuda/launch.cuh"

namespace ssf::cuda {
namespace {

constexpr int kRounds = 4;

}  // namespace

int64_t hutchinson_dot_parts(int64_t elements) {
  return std::max<int64_t>(1, ceil_divide(elements, 8 * kThreads * kRounds));
}

int hutchinson_dot(const HutchinsonDot& at, void* stream) {
  const bool vector = whole_quads(at.elements, at.tangent_type, at.tangent);
  const int error = choose<Noise::signs, Noise::fast, Noise::precise>(at.field.noise, [&](auto noise) {
    constexpr Noise NOISE = decltype(noise)::value;
    return choose<Type::float32, Type::bfloat16, Type::float16>(at.tangent_type, [&](auto type) {
      constexpr Type TANGENT = decltype(type)::value;
      const auto kernel = vector ? hutchinson_dot_kernel<NOISE, TANGENT, true, kRounds, kThreads>
                                 : hutchinson_dot_kernel<NOISE, TANGENT, false, kRounds, kThreads>;
      // A sample without elements has a sum, too.
      const int64_t elements = std::max<int64_t>(1, at.elements);
      return launch_over(at.samples, elements, 2 * kRounds, kThreads, stream, kernel, at,
                         PhiloxKeys(at.field.run_seed));
    });
  });
  if (error || !at.parts) return error;
  return launch_warps(at.samples, stream, hutchinson_dot_sum_kernel<kThreads>, at, hutchinson_dot_parts(at.elements));
}

}  // namespace ssf::cuda

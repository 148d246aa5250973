// SPDX-License-Identifier: Apache-2.0
// Launch grids, and selection of template parameters by run-time arguments.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/step.h"

namespace ssf::cuda {

constexpr int kThreads = 128;

// Calls `launch` with the element of VALUES that equals `value`, as a compile-time constant.
template <auto... VALUES, class T, class Launch>
int choose(T value, Launch&& launch) {
  int error = cudaErrorInvalidValue;
  ((value == VALUES ? static_cast<void>(error = launch(std::integral_constant<T, VALUES>{})) : void()), ...);
  return error;
}

// Returns whether samples of `elements` values at these addresses allow 16-byte accesses.
template <class... Pointers>
bool whole_quads(int64_t elements, Type type, Pointers... pointers) {
  const bool narrow = type == Type::bfloat16 || type == Type::float16;
  return elements % (narrow ? 8 : 4) == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The grid for `block_sample`, with `quads` quads per thread. Quads have 32-bit indices; larger samples are rejected.
template <class... Parameters, class... Arguments>
int launch_over(int64_t samples, int64_t elements, int quads, int threads, void* stream, void (*kernel)(Parameters...),
                const Arguments&... arguments) {
  constexpr int64_t kAxis = 65535;
  const int64_t block = int64_t{4} * quads * threads, blocks = ceil_divide(elements, block);
  if (samples * blocks == 0) return cudaSuccess;
  if (blocks * block > int64_t{1} << 34) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(samples, kAxis)),
                  static_cast<unsigned>(ceil_divide(samples, kAxis)));
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// The grid of `blocks` blocks of `kThreads`.
template <class... Parameters, class... Arguments>
int launch_blocks(int64_t blocks, void* stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// The grid with a warp for each sample; see `warp_sample`.
template <class... Parameters, class... Arguments>
int launch_warps(int64_t samples, void* stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  return launch_blocks(ceil_divide(samples, kThreads / 32), stream, kernel, arguments...);
}

}  // namespace ssf::cuda

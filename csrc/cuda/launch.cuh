// SPDX-License-Identifier: Apache-2.0
// Grids, and the choice of a kernel's template parameters by run-time arguments.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/step.h"

namespace ssf::cuda {

constexpr int kThreads = 128;

// Calls `launch` with the constant of VALUES that equals `value`.
template <auto... VALUES, class T, class Launch>
int choose(T value, Launch&& launch) {
  int error = cudaErrorInvalidValue;
  ((value == VALUES ? static_cast<void>(error = launch(std::integral_constant<T, VALUES>{})) : void()), ...);
  return error;
}

// Whether samples of `elements` numbers can be read 16 bytes at a time from these addresses.
template <class... Pointers>
bool whole_quads(int64_t elements, Type type, Pointers... pointers) {
  const bool narrow = type == Type::bfloat16 || type == Type::float16;
  return elements % (narrow ? 8 : 4) == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A grid for `block_sample`, with `quads` quads for each thread of every block. Fields number their quads by 32 bits:
// larger samples are refused.
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

// `blocks` blocks of `kThreads`.
template <class... Parameters, class... Arguments>
int launch_blocks(int64_t blocks, void* stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// A warp for each sample; see `warp_sample`.
template <class... Parameters, class... Arguments>
int launch_warps(int64_t samples, void* stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  return launch_blocks(ceil_divide(samples, kThreads / 32), stream, kernel, arguments...);
}

}  // namespace ssf::cuda

// SPDX-License-Identifier: Apache-2.0
// Runs the kernels of csrc/cuda on the host: each thread of a block is a host thread, barriers and shuffles synchronise
// these threads, and blocks run one after another. Include this before any of csrc/cuda/*.cuh.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks do not run at the same time, so they may use the same shared memory.
#define __shared__ static
#define SSF_UNROLL

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};

inline thread_local Index3 blockIdx, threadIdx;
inline Index3 gridDim;

namespace ssf::cuda {

struct HostBlock {
  std::barrier<> barrier;
  std::deque<std::barrier<>> warps;
  std::vector<uint64_t> lanes;

  explicit HostBlock(unsigned threads) : barrier(threads), lanes(threads) {
    for (unsigned warp = 0; warp < threads / 32; ++warp) warps.emplace_back(32);
  }
};
inline HostBlock* host_block = nullptr;

inline float log2_approx(float x) { return std::log2(x); }
inline float sqrt_approx(float x) { return std::sqrt(x); }
inline float divide_approx(float a, float b) { return a / b; }
inline float sin_approx(float x) { return std::sin(x); }
inline float cos_approx(float x) { return std::cos(x); }
inline uint64_t multiply_wide(uint32_t a, uint32_t b) { return uint64_t{a} * b; }

inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float float_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float x = exponent ? std::ldexp(static_cast<float>(mantissa | 1024), exponent - 25)
                     : std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) x = mantissa ? NAN : INFINITY;
  return bits >> 15 ? -x : x;
}

// Aborts if the address is not a multiple of 16, which is a fault on a GPU.
inline const void* aligned(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16) std::abort();
  return address;
}
// Elements outside are NaN here, in each type; on a GPU they are undefined.
inline float4 load16(const float* first, bool inside) {
  return inside ? *static_cast<const float4*>(aligned(first)) : float4{NAN, NAN, NAN, NAN};
}
inline uint4 load16(const uint16_t* first, bool inside) {
  uint4 values = {0x7fff7fff, 0x7fff7fff, 0x7fff7fff, 0x7fff7fff};
  if (inside) std::memcpy(&values, aligned(first), sizeof values);
  return values;
}
inline void store16(float* first, float4 values, bool inside) {
  if (inside) std::memcpy(const_cast<void*>(aligned(first)), &values, 16);
}

template <class T>
T shuffle_xor(T value, int mask) {
  std::barrier<>& warp = host_block->warps[threadIdx.x / 32];
  std::memcpy(&host_block->lanes[threadIdx.x], &value, sizeof value);
  warp.arrive_and_wait();
  std::memcpy(&value, &host_block->lanes[threadIdx.x ^ static_cast<unsigned>(mask)], sizeof value);
  warp.arrive_and_wait();
  return value;
}

// Does kernel<<<grid, threads>>>(arguments...).
template <class... Parameters, class... Arguments>
void run(Index3 grid, unsigned threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  HostBlock block(threads);
  host_block = &block;
  gridDim = grid;
  std::vector<std::thread> lanes;
  for (unsigned lane = 0; lane < threads; ++lane)
    lanes.emplace_back([&, lane] {
      threadIdx = {lane, 0, 0};
      for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
          for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, z};
            kernel(arguments...);
            block.barrier.arrive_and_wait();
          }
    });
  for (std::thread& lane : lanes) lane.join();
}

}  // namespace ssf::cuda

inline void __syncthreads() { ssf::cuda::host_block->barrier.arrive_and_wait(); }

// SPDX-License-Identifier: Apache-2.0
// Instructions without a C++ name. Host builds of the kernels take them from csrc/tests/cuda_on_host.h.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

// For loops whose counter indexes an array: unrolled, the array is a set of registers.
#define SSF_UNROLL _Pragma("unroll")

namespace ssf::cuda {

// Sixteen bytes of global memory in one instruction: the compiler would split some of these accesses. The clobber keeps
// program order, which matters because the program overwrites its inputs. Elements outside are undefined: zeroing them
// would cost an instruction each.
__device__ __forceinline__ float4 load16(const float* first, bool inside) {
  float4 values;
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.v4.f32 {%0, %1, %2, %3}, [%4]; }"
               : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
               : "l"(first), "r"(uint32_t{inside})
               : "memory");
  return values;
}
__device__ __forceinline__ uint4 load16(const uint16_t* first, bool inside) {
  uint4 values;
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
               : "=r"(values.x), "=r"(values.y), "=r"(values.z), "=r"(values.w)
               : "l"(first), "r"(uint32_t{inside})
               : "memory");
  return values;
}
__device__ __forceinline__ void store16(float* first, float4 values, bool inside) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.v4.f32 [%0], {%1, %2, %3, %4}; }"
               :
               : "l"(first), "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(uint32_t{inside})
               : "memory");
}

__device__ __forceinline__ uint64_t multiply_wide(uint32_t a, uint32_t b) {
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// ftz: subnormal numbers never occur here, and without it each instruction carries code for them.
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sqrt_approx(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Within 2 ulp over the whole range of float32.
__device__ __forceinline__ float divide_approx(float a, float b) {
  float y;
  asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float sin_approx(float x) {
  float y;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float cos_approx(float x) {
  float y;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ float float_of_half(uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}

// The value of the lane whose number differs in `mask`; every lane of the warp takes part.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffff, value, mask);
}

}  // namespace ssf::cuda

#endif

// SPDX-License-Identifier: Apache-2.0
// Instructions without a C++ function. Host builds of the kernels use those of csrc/tests/cuda_on_host.h.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

// For loops whose counter indexes an array: if they are unrolled, the array is kept in registers.
#define SSF_UNROLL _Pragma("unroll")

namespace ssf::cuda {

// Accesses to 16 bytes of global memory in one instruction; the compiler would split some of them. The clobber keeps
// program order, which matters because kernels overwrite their inputs. Elements outside are undefined, because zeroing
// them would take an instruction each.
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

// ftz, because subnormal numbers never occur here, and supporting them takes extra instructions.
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

// The value of the lane whose index is this lane's index xor `mask`; all lanes of the warp must call it.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffff, value, mask);
}

}  // namespace ssf::cuda

#endif

// SPDX-License-Identifier: Apache-2.0
// The one macro that lets a formula be compiled for the host and for a GPU. It is always inlined: a loop over it then
// becomes vector instructions, and each clone of a multiversioned function compiles it for its own processor.
#pragma once

#if defined(__CUDACC__)
#define SSF_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define SSF_HD inline __attribute__((always_inline))
#else
#define SSF_HD inline
#endif

// SPDX-License-Identifier: Apache-2.0
// Macro for functions that are compiled for both host and GPU. They are always inlined, so that loops over them are
// vectorised, and each clone of a multiversioned function compiles them for its own processor.
#pragma once

#if defined(__CUDACC__)
#define SSF_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define SSF_HD inline __attribute__((always_inline))
#else
#define SSF_HD inline
#endif

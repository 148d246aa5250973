// SPDX-License-Identifier: Apache-2.0
// The one macro that lets a formula be compiled for the host and for a GPU.
#pragma once

#if defined(__CUDACC__)
#define SSF_HD __host__ __device__ __forceinline__
#else
#define SSF_HD inline
#endif

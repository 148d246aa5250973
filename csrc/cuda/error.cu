// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "cuda/step.h"

namespace ssf::cuda {

const char* describe(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace ssf::cuda

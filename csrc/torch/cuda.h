// SPDX-License-Identifier: Apache-2.0
// Helpers for the registration of CUDA kernels. The extension links only libtorch_cpu, so that one build works with
// every torch; a symbol of libtorch_cuda is looked up by name when a kernel first runs.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/step.h"
#include "torch/arguments.h"

namespace ssf::torch_side {

// PyTorch's current stream of a device.
inline void* current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto function = [] {
    constexpr const char* kName = "aoti_torch_get_current_cuda_stream";
    void* symbol = dlsym(RTLD_DEFAULT, kName);
    // Python loads torch's libraries with local symbols, so the symbol is looked up in the loaded library.
    if (!symbol)
      if (void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD)) symbol = dlsym(library, kName);
    return reinterpret_cast<Function>(symbol);
  }();
  STD_TORCH_CHECK(function, "this torch has no CUDA streams: install a CUDA build of torch 2.11 or newer");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(function(device, &stream));
  return stream;
}

// Calls launch(stream) on the tensor's device.
template <class Launch>
void launch_on(const Tensor& tensor, const char* operation, const Launch& launch) {
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int error = launch(current_stream(device));
  STD_TORCH_CHECK(error == 0, operation, ": CUDA error ", error, ": ", cuda::describe(error));
}

// A CUDA kernel is selected if any tensor is on a GPU; the first must be.
inline void require_cuda(const Tensor& first, const char* name) {
  check(first.is_cuda(), name, " is not on the GPU, but another tensor is; move one of them");
}

inline cuda::Type network_type(const Tensor& first, const Tensor& tensor, const char* name) {
  switch (network_dtype(first, tensor, name)) {
    case cpu::Dtype::float32:
      return cuda::Type::float32;
    case cpu::Dtype::bfloat16:
      return cuda::Type::bfloat16;
    default:
      return cuda::Type::float16;
  }
}

inline cuda::Field field(const Tensor& first, const Tensor& ids, int64_t samples, int64_t run_seed, int64_t draw,
                         cuda::Noise noise) {
  return {sample_ids(first, ids, samples), static_cast<uint64_t>(run_seed), static_cast<uint32_t>(draw), noise};
}
inline cuda::Noise normal_noise(bool precise) { return precise ? cuda::Noise::precise : cuda::Noise::fast; }

inline cuda::Table device_table(const Tensor& first, const Tensor& coefficients, const Tensor& control, int64_t width,
                                const MaybeTensor& counter, int64_t offset) {
  const RowIndex index = row_index(first, coefficients, width, counter, offset);
  require_control(first, control, coefficients);
  return {coefficients.const_data_ptr<float>(), control.const_data_ptr<int32_t>(), index};
}

inline Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns, ScalarType dtype) {
  const std::array<int64_t, 2> shape{rows, columns};
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, dtype);
}

}  // namespace ssf::torch_side

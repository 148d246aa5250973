// SPDX-License-Identifier: Apache-2.0
// Memory for results, without torch::stable::empty, whose dispatcher call takes as long as a small image.
#pragma once

#include <torch/csrc/stable/library.h>

#include "torch/checks.h"

namespace ssf::torch_side {

template <size_t kDims>
Tensor uninitialised(const std::array<int64_t, kDims>& shape, const std::array<int64_t, kDims>& strides,
                     ScalarType type) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(kDims, shape.data(), strides.data(),
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// Images (B, C, H, W), channels_last or contiguous.
inline Tensor images(const std::array<int64_t, 4>& shape, bool channels_last, ScalarType type) {
  require_room(shape.data(), shape.size(), "the result");
  // For strides, empty dimensions count as size 1.
  const auto of = [&](int dim) { return std::max<int64_t>(1, shape[dim]); };
  const int64_t channels = of(1), height = of(2), width = of(3), row = width * (channels_last ? channels : 1);
  return uninitialised<4>(shape,
                          channels_last ? std::array<int64_t, 4>{height * row, 1, row, channels}
                                        : std::array<int64_t, 4>{channels * height * row, height * row, row, 1},
                          type);
}

inline Tensor images_like(const Tensor& like, bool channels_last) {
  return images({like.size(0), like.size(1), like.size(2), like.size(3)}, channels_last, like.scalar_type());
}

}  // namespace ssf::torch_side

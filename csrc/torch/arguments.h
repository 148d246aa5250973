// SPDX-License-Identifier: Apache-2.0
// Helpers for operator registration: pointers to tensors, rows of step tables, and division of work among threads. The
// Python wrappers explain invalid arguments; the checks here only protect direct calls from out-of-bounds accesses.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <optional>

#include "core/step_table.h"
#include "cpu/network_dtype.h"

namespace ssf::torch_side {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Elements per unit of work, about 100 us. A multiple of every block size.
constexpr int64_t kPiece = 1 << 15;

inline void require(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_contiguous(), name, " has the wrong dtype or strides");
}

// Returns whether the memory of (B, C, H, W) is contiguous as (B, H, W, C); dimensions of size one are ignored.
inline bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

inline cpu::Dtype network_dtype(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(tensor.is_contiguous(), "the network's output must be contiguous");
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "the network's output must be float32, bfloat16 or float16");
  if (dtype == ScalarType::Float) return cpu::Dtype::float32;
  return dtype == ScalarType::BFloat16 ? cpu::Dtype::bfloat16 : cpu::Dtype::float16;
}

inline RowIndex row_index(const Tensor& table, const MaybeTensor& counter, int64_t offset) {
  STD_TORCH_CHECK(offset >= 0 && table.size(0) > 0, "the row is outside the step table");
  const bool wide = counter && counter->scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(!counter || wide || counter->scalar_type() == ScalarType::Int, "counter must be int32 or int64");
  return {counter ? counter->const_data_ptr() : nullptr, wide, offset, table.size(0)};
}

// Pointer to the first coefficient of the row, in a table on the host with `width` columns.
inline const float* host_row(const Tensor& coefficients, int64_t width, const RowIndex& index) {
  require(coefficients, ScalarType::Float, "coefficients");
  STD_TORCH_CHECK(coefficients.size(1) == width, "coefficients have the wrong number of columns");
  return coefficients.const_data_ptr<float>() + index() * width;
}

inline const int32_t* host_control(const Tensor& control, const RowIndex& index) {
  require(control, ScalarType::Int, "control");
  return control.const_data_ptr<int32_t>() + index() * ControlColumns::width;
}

inline const int64_t* sample_ids(const Tensor& ids, int64_t samples) {
  require(ids, ScalarType::Long, "sample_ids");
  STD_TORCH_CHECK(ids.numel() == samples, "there must be one sample id a sample");
  return ids.const_data_ptr<int64_t>();
}

// Elements of one sample of a batch (B, ...).
inline int64_t sample_elements(const Tensor& batch) { return batch.size(0) ? batch.numel() / batch.size(0) : 0; }

// Calls work(sample, begin, end) for ranges of all samples' elements, on PyTorch's threads.
template <class Work>
void over_pieces(int64_t samples, int64_t elements, const Work& work) {
  const int64_t pieces = (elements + kPiece - 1) / kPiece;
  const int64_t grain = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, samples * pieces, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % pieces * kPiece;
      work(i / pieces, begin, std::min(begin + kPiece, elements));
    }
  });
}

}  // namespace ssf::torch_side

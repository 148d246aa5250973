// SPDX-License-Identifier: Apache-2.0
// Helpers for operator registration: pointers to checked tensors, rows of step tables, and division of work among
// threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "core/step_table.h"
#include "cpu/network_dtype.h"
#include "torch/checks.h"

namespace ssf::torch_side {

// Elements per unit of work, about 100 us. A multiple of every block size.
constexpr int64_t kPiece = 1 << 15;

// The dtype of a network's output, or of a tensor like it.
inline cpu::Dtype network_dtype(const Tensor& first, const Tensor& tensor, const char* name) {
  const ScalarType dtype = tensor.scalar_type();
  check((dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half) &&
            tensor.is_contiguous(),
        name, " is ", Shown{tensor}, "; it must be contiguous float32, bfloat16 or float16");
  require_with(first, tensor, name);
  require_memory(tensor, dtype, name);
  if (dtype == ScalarType::Float) return cpu::Dtype::float32;
  return dtype == ScalarType::BFloat16 ? cpu::Dtype::bfloat16 : cpu::Dtype::float16;
}

inline const int64_t* sample_ids(const Tensor& first, const Tensor& ids, int64_t samples) {
  require(first, ids, ScalarType::Long, "sample_ids");
  check(ids.dim() == 1 && ids.size(0) == samples, "sample_ids is ", Shown{ids}, "; it must be (", samples,
        ",), one for each sample");
  return ids.const_data_ptr<int64_t>();
}

// The limits of the noise contract, see scoresde_fast/rng.py.
inline void require_draw(int64_t draw) { require_range(draw, 0, UINT32_MAX, "draw"); }
inline void require_elements(int64_t elements) { require_range(elements, 0, (int64_t{1} << 34) - 1, "elements"); }

// The row index of a step in a table with `width` columns. Only the host reads the counter here.
inline RowIndex row_index(const Tensor& first, const Tensor& coefficients, int64_t width, const MaybeTensor& counter,
                          int64_t offset) {
  require(first, coefficients, ScalarType::Float, "coefficients");
  check(coefficients.dim() == 2 && coefficients.size(0) > 0 && coefficients.size(1) == width, "coefficients is ",
        Shown{coefficients}, "; it must be (rows, ", width, ") with at least one row");
  const int64_t rows = coefficients.size(0);
  require_range(offset, 0, rows - 1, "offset");
  if (!counter) return {nullptr, false, offset, rows};
  const bool wide = counter->scalar_type() == ScalarType::Long;
  check((wide || counter->scalar_type() == ScalarType::Int) && counter->numel() == 1, "counter is ", Shown{*counter},
        "; it must be one int32 or int64");
  require_with(first, *counter, "counter");
  require_memory(*counter, wide ? ScalarType::Long : ScalarType::Int, "counter");
  return {counter->const_data_ptr(), wide, offset, rows};
}

inline void require_control(const Tensor& first, const Tensor& control, const Tensor& coefficients) {
  require(first, control, ScalarType::Int, "control");
  check(control.dim() == 2 && control.size(0) == coefficients.size(0) && control.size(1) == ControlColumns::width,
        "control is ", Shown{control}, "; it must be (", coefficients.size(0), ", ", int{ControlColumns::width},
        "), a row for each row of the coefficients");
}

// The number of the row, on the host, where a counter can be refused; a GPU's kernels clamp it.
inline int64_t host_row(const RowIndex& index) {
  check(index.count() >= -index.offset, "counter is ", index.count(), "; counter + offset must be at least 0");
  return index();
}

inline const float* host_coefficients(const Tensor& coefficients, int64_t width, int64_t row) {
  return coefficients.const_data_ptr<float>() + row * width;
}

inline const int32_t* host_control(const Tensor& control, int64_t row) {
  return control.const_data_ptr<int32_t>() + row * ControlColumns::width;
}

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

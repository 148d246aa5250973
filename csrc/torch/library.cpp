// SPDX-License-Identifier: Apache-2.0
// Registers the C++ operators through PyTorch's stable ABI (2.11 on), in a namespace of their own: the schemas of
// `scoresde_fast` are Python's, and hold whether or not this file was built.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>

#include "cpu/normal.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

// What one thread takes at a time, in elements: about 100 us of work.
constexpr int64_t kPiece = 1 << 15;

Tensor normal_cpu(const Tensor sample_ids, int64_t run_seed, int64_t draw, int64_t elements) {
  STD_TORCH_CHECK(sample_ids.dim() == 1 && sample_ids.scalar_type() == ScalarType::Long && sample_ids.is_contiguous(),
                  "normal: sample_ids must be a contiguous one-dimensional int64 tensor");
  const int64_t samples = sample_ids.size(0);
  const std::array<int64_t, 2> shape{samples, elements};
  Tensor out = torch::stable::new_empty(sample_ids, {shape.data(), shape.size()}, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
  const auto seed = static_cast<uint64_t>(run_seed);
  const int64_t pieces = (elements + kPiece - 1) / kPiece;
  const int64_t grain = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, samples * pieces, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t sample = i / pieces, begin = i % pieces * kPiece, end = std::min(begin + kPiece, elements);
      ssf::cpu::normal(values + sample * elements, begin, end, seed, static_cast<uint32_t>(draw),
                       static_cast<uint64_t>(ids[sample]));
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(scoresde_fast_C, m) {
  m.def("normal(Tensor sample_ids, int run_seed, int draw, SymInt elements) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("normal", TORCH_BOX(&normal_cpu)); }

// An empty module, so that importing scoresde_fast._C runs the registrations above.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

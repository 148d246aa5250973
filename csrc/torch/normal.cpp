// SPDX-License-Identifier: Apache-2.0
#include "cpu/normal.h"

#include "torch/arguments.h"

namespace ssf::torch_side {
namespace {

Tensor normal_cpu(const Tensor ids, int64_t run_seed, int64_t draw, int64_t elements, bool) {
  const int64_t samples = ids.size(0);
  const int64_t* id = sample_ids(ids, samples);
  const std::array<int64_t, 2> shape{samples, elements};
  Tensor out = torch::stable::new_empty(ids, {shape.data(), shape.size()}, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  over_pieces(samples, elements, [&](int64_t sample, int64_t begin, int64_t end) {
    cpu::normal(values + sample * elements, begin, end,
                {static_cast<uint64_t>(run_seed), static_cast<uint64_t>(id[sample]), static_cast<uint32_t>(draw)});
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("normal(Tensor sample_ids, int run_seed, int draw, SymInt elements, bool precise) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("normal", TORCH_BOX(&normal_cpu)); }

}  // namespace ssf::torch_side

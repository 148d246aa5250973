// SPDX-License-Identifier: Apache-2.0
#include "cpu/normal.h"

#include "torch/field.h"

namespace ssf::torch_side {
namespace {

Tensor normal_cpu(const Tensor ids, int64_t run_seed, int64_t draw, int64_t elements, bool) {
  return make_field<cpu::normal>(ids, run_seed, draw, elements);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("normal(Tensor sample_ids, int run_seed, int draw, SymInt elements, bool precise) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("normal", TORCH_BOX(&normal_cpu)); }

}  // namespace ssf::torch_side

// SPDX-License-Identifier: Apache-2.0
#include "cpu/rademacher.h"

#include "torch/field.h"

namespace ssf::torch_side {
namespace {

Tensor rademacher_cpu(const Tensor ids, int64_t run_seed, int64_t draw, int64_t elements) {
  return make_field<cpu::rademacher>(ids, run_seed, draw, elements);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def("rademacher(Tensor sample_ids, int run_seed, int draw, SymInt elements) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) { m.impl("rademacher", TORCH_BOX(&rademacher_cpu)); }

}  // namespace ssf::torch_side

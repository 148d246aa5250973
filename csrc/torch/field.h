// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/noise.h"
#include "torch/arguments.h"

namespace ssf::torch_side {

using FieldKernel = void (*)(float*, int64_t, int64_t, const cpu::Field&);

// Noise of the draw `draw` for each sample, (samples, elements) float32, computed by a CPU kernel.
template <FieldKernel kernel>
Tensor make_field(const Tensor& ids, int64_t run_seed, int64_t draw, int64_t elements) {
  const int64_t samples = batch_of(ids, "sample_ids");
  const int64_t* id = sample_ids(ids, ids, samples);
  require_draw(draw);
  require_elements(elements);
  const std::array<int64_t, 2> shape{samples, elements};
  Tensor out = torch::stable::new_empty(ids, {shape.data(), shape.size()}, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  over_pieces(samples, elements, [&](int64_t sample, int64_t begin, int64_t end) {
    kernel(values + sample * elements, begin, end,
           {static_cast<uint64_t>(run_seed), static_cast<uint64_t>(id[sample]), static_cast<uint32_t>(draw)});
  });
  return out;
}

}  // namespace ssf::torch_side

// SPDX-License-Identifier: Apache-2.0
#include "cpu/langevin.h"

#include <cmath>
#include <vector>

#include "torch/arguments.h"

namespace ssf::torch_side {
namespace {

// The score of each sample of the batch, for one row of the table.
struct Scores {
  const void* output;
  cpu::Dtype dtype;
  int64_t samples, elements;
  const float* row;
  uint64_t run_seed;
  uint32_t draw;
  const int64_t* ids;

  Scores(const Tensor& output, const Tensor& sample_ids_, const Tensor& coefficients, const Tensor& control,
         const MaybeTensor& counter, int64_t offset, int64_t run_seed)
      : output(output.const_data_ptr()),
        dtype(network_dtype(output)),
        samples(output.size(0)),
        elements(sample_elements(output)),
        run_seed(static_cast<uint64_t>(run_seed)),
        ids(sample_ids(sample_ids_, output.size(0))) {
    const RowIndex index = row_index(coefficients, counter, offset);
    row = host_row(coefficients, Columns::width, index);
    draw = static_cast<uint32_t>(host_control(control, index)[Control::draw]);
  }

  cpu::Score operator()(int64_t sample) const {
    return {output,
            dtype,
            sample * elements,
            row[Columns::derive_output],
            {run_seed, static_cast<uint64_t>(ids[sample]), draw}};
  }
};

Tensor norms_cpu(const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                 const MaybeTensor counter, int64_t offset, int64_t run_seed, bool) {
  const Scores scores(output, ids, coefficients, control, counter, offset, run_seed);
  const int64_t pieces = std::max<int64_t>(1, (scores.elements + kPiece - 1) / kPiece);
  std::vector<cpu::Norms> partial(scores.samples * pieces);
  over_pieces(scores.samples, scores.elements, [&](int64_t sample, int64_t begin, int64_t end) {
    partial[sample * pieces + begin / kPiece] = cpu::langevin_norms(scores(sample), begin, end);
  });
  const std::array<int64_t, 2> shape{scores.samples, 2};
  Tensor out = torch::stable::new_empty(output, {shape.data(), shape.size()}, ScalarType::Float);
  float* sums = out.mutable_data_ptr<float>();
  for (int64_t sample = 0; sample < scores.samples; ++sample) {
    cpu::Norms total{0, 0};
    for (int64_t piece = sample * pieces; piece < (sample + 1) * pieces; ++piece) {
      total.score += partial[piece].score;
      total.noise += partial[piece].noise;
    }
    sums[2 * sample] = static_cast<float>(total.score);
    sums[2 * sample + 1] = static_cast<float>(total.noise);
  }
  return out;
}

void step_cpu(Tensor state, const Tensor output, const Tensor norms, const Tensor ids, const Tensor coefficients,
              const Tensor control, const MaybeTensor counter, int64_t offset, bool per_sample, int64_t run_seed,
              bool) {
  const Scores scores(output, ids, coefficients, control, counter, offset, run_seed);
  require(state, ScalarType::Float, "state");
  require(norms, ScalarType::Float, "norms");
  STD_TORCH_CHECK(state.numel() == output.numel() && norms.numel() == 2 * scores.samples, "langevin_step: wrong sizes");
  const float* sums = norms.const_data_ptr<float>();
  double mean_score = 0, mean_noise = 0;
  for (int64_t sample = 0; sample < scores.samples; ++sample) {
    mean_score += std::sqrt(static_cast<double>(sums[2 * sample]));
    mean_noise += std::sqrt(static_cast<double>(sums[2 * sample + 1]));
  }
  const double batch_ratio = mean_noise / mean_score, factor = scores.row[Columns::langevin];
  float* values = state.mutable_data_ptr<float>();
  over_pieces(scores.samples, scores.elements, [&](int64_t sample, int64_t begin, int64_t end) {
    const double own = static_cast<double>(sums[2 * sample + 1]) / sums[2 * sample];
    const double size = factor * (per_sample ? own : batch_ratio * batch_ratio);
    cpu::langevin_step(values + sample * scores.elements, scores(sample), static_cast<float>(size), begin, end);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def(
      "langevin_norms(Tensor network_output, Tensor sample_ids, Tensor coefficients, Tensor control, Tensor? counter, "
      "int offset, int run_seed, bool precise) -> Tensor");
  m.def(
      "langevin_step(Tensor(a!) state, Tensor network_output, Tensor norms, Tensor sample_ids, Tensor coefficients, "
      "Tensor control, Tensor? counter, int offset, bool per_sample, int run_seed, bool precise) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) {
  m.impl("langevin_norms", TORCH_BOX(&norms_cpu));
  m.impl("langevin_step", TORCH_BOX(&step_cpu));
}

}  // namespace ssf::torch_side

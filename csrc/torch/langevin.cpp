// SPDX-License-Identifier: Apache-2.0
#include "cpu/langevin.h"

#include <cmath>
#include <vector>

#include "torch/step_arguments.h"

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

  Scores(const Tensor& output_, const Tensor& sample_ids_, const Tensor& coefficients, const Tensor& control,
         const MaybeTensor& counter, int64_t offset, int64_t run_seed)
      : dtype(network_dtype(output_, output_, "network_output")),
        samples(batch_of(output_, "network_output")),
        elements(sample_elements(output_)),
        run_seed(static_cast<uint64_t>(run_seed)),
        ids(sample_ids(output_, sample_ids_, samples)) {
    const RowIndex index = row_index(output_, coefficients, Columns::width, counter, offset);
    require_control(output_, control, coefficients);
    const int64_t number = host_row(index);
    row = host_coefficients(coefficients, Columns::width, number);
    draw = static_cast<uint32_t>(host_control(control, number)[ControlColumns::draw]);
    output = output_.const_data_ptr();
  }

  cpu::Score operator()(int64_t sample) const {
    return {output,
            dtype,
            sample * elements,
            row[Columns::derive_output],
            {run_seed, static_cast<uint64_t>(ids[sample]), draw}};
  }
};

// Computes the sums of all samples; the noise is stored in `kept` unless that is null.
std::vector<cpu::Norms> sums_of(const Scores& scores, float* kept) {
  const int64_t pieces = std::max<int64_t>(1, (scores.elements + kPiece - 1) / kPiece);
  std::vector<cpu::Norms> partial(scores.samples * pieces), sums(scores.samples);
  over_pieces(scores.samples, scores.elements, [&](int64_t sample, int64_t begin, int64_t end) {
    float* noise = kept ? kept + sample * scores.elements : nullptr;
    partial[sample * pieces + begin / kPiece] = cpu::langevin_norms(scores(sample), noise, begin, end);
  });
  for (int64_t i = 0; i < static_cast<int64_t>(partial.size()); ++i) {
    sums[i / pieces].score += partial[i].score;
    sums[i / pieces].noise += partial[i].noise;
  }
  return sums;
}

float step_size(const Scores& scores, double norms_ratio_squared) {
  return static_cast<float>(scores.row[Columns::langevin] * norms_ratio_squared);
}

void step_by(const Scores& scores, const std::vector<cpu::Norms>& sums, const float* kept, bool per_sample,
             Tensor& state) {
  double score = 0, noise = 0;
  for (const cpu::Norms& sum : sums) {
    score += std::sqrt(sum.score);
    noise += std::sqrt(sum.noise);
  }
  const double batch_ratio = noise / score;
  float* values = state.mutable_data_ptr<float>();
  over_pieces(scores.samples, scores.elements, [&](int64_t sample, int64_t begin, int64_t end) {
    const double square = per_sample ? sums[sample].noise / sums[sample].score : batch_ratio * batch_ratio;
    const int64_t base = sample * scores.elements;
    cpu::langevin_step(values + base, scores(sample), kept ? kept + base : nullptr, step_size(scores, square), begin,
                       end);
  });
}

Tensor norms_cpu(const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                 const MaybeTensor counter, int64_t offset, int64_t run_seed, bool) {
  const Scores scores(output, ids, coefficients, control, counter, offset, run_seed);
  const std::array<int64_t, 2> shape{scores.samples, 2};
  Tensor out = torch::stable::new_empty(output, {shape.data(), shape.size()}, ScalarType::Float);
  float* norms = out.mutable_data_ptr<float>();
  for (const cpu::Norms& sum : sums_of(scores, nullptr)) {
    *norms++ = static_cast<float>(sum.score);
    *norms++ = static_cast<float>(sum.noise);
  }
  return out;
}

void step_cpu(Tensor state, const Tensor output, const Tensor norms, const Tensor ids, const Tensor coefficients,
              const Tensor control, const MaybeTensor counter, int64_t offset, bool per_sample, int64_t run_seed,
              bool) {
  require_langevin_state(state, output);
  const Scores scores(output, ids, coefficients, control, counter, offset, run_seed);
  require_norms(output, norms, scores.samples);
  const float* values = norms.const_data_ptr<float>();
  std::vector<cpu::Norms> sums(scores.samples);
  for (int64_t sample = 0; sample < scores.samples; ++sample)
    sums[sample] = {values[2 * sample], values[2 * sample + 1]};
  step_by(scores, sums, nullptr, per_sample, state);
}

// Computes norms and step sample by sample, while the noise is in the L1 cache.
void step_sample_by_sample(const Scores& scores, Tensor& state) {
  float* values = state.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, scores.elements));
  torch::stable::parallel_for(0, scores.samples, grain, [&](int64_t first, int64_t last) {
    std::vector<float> noise(scores.elements);
    for (int64_t sample = first; sample < last; ++sample) {
      const cpu::Norms sums = cpu::langevin_norms(scores(sample), noise.data(), 0, scores.elements);
      cpu::langevin_step(values + sample * scores.elements, scores(sample), noise.data(),
                         step_size(scores, sums.noise / sums.score), 0, scores.elements);
    }
  });
}

// The noise is generated once and stored between norms and step, because a core reads it from its caches faster than it
// generates it.
void langevin_cpu(Tensor state, const Tensor output, const Tensor ids, const Tensor coefficients, const Tensor control,
                  const MaybeTensor counter, int64_t offset, bool per_sample, int64_t run_seed, bool) {
  require_langevin_state(state, output);
  const Scores scores(output, ids, coefficients, control, counter, offset, run_seed);
  if (per_sample && scores.elements <= kPiece) return step_sample_by_sample(scores, state);
  const std::array<int64_t, 2> shape{scores.samples, scores.elements};
  const Tensor noise = torch::stable::new_empty(output, {shape.data(), shape.size()}, ScalarType::Float);
  float* kept = noise.mutable_data_ptr<float>();
  step_by(scores, sums_of(scores, kept), kept, per_sample, state);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def(
      "langevin_norms(Tensor network_output, Tensor sample_ids, Tensor coefficients, Tensor control, Tensor? counter, "
      "int offset, int run_seed, bool precise) -> Tensor");
  m.def(
      "langevin_step(Tensor(a!) state, Tensor network_output, Tensor norms, Tensor sample_ids, Tensor coefficients, "
      "Tensor control, Tensor? counter, int offset, bool per_sample, int run_seed, bool precise) -> ()");
  m.def(
      "langevin(Tensor(a!) state, Tensor network_output, Tensor sample_ids, Tensor coefficients, Tensor control, "
      "Tensor? counter, int offset, bool per_sample, int run_seed, bool precise) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) {
  m.impl("langevin_norms", TORCH_BOX(&norms_cpu));
  m.impl("langevin_step", TORCH_BOX(&step_cpu));
  m.impl("langevin", TORCH_BOX(&langevin_cpu));
}

}  // namespace ssf::torch_side

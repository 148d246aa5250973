// SPDX-License-Identifier: Apache-2.0
// Checks of the tensors of a step, the same on every device.
#pragma once

#include "torch/arguments.h"

namespace ssf::torch_side {

// Checks the tensors of affine_step and affine_step_pair except those of the table. `halves`: 1 for single states, 2
// for pairs (B, 2C, ...), whose network output is (B, C, ...).
inline void require_step(const Tensor& state, const MaybeTensor& saved, const MaybeTensor& history,
                         const MaybeTensor& output, int64_t earlier, int halves) {
  require(state, state, ScalarType::Float, "state");
  batch_of(state, "state");
  check(halves == 1 || (state.dim() > 1 && state.size(1) % 2 == 0), "state is ", Shown{state},
        "; a pair must be (B, 2C, ...)");
  if (saved) {
    require(state, *saved, ScalarType::Float, "saved");
    require_shape_of(state, "state", *saved, "saved");
  }
  require_range(earlier, 0, 3, "earlier");
  check(history || earlier == 0, "earlier is ", earlier, "; without a history it must be 0");
  if (history) {
    require(state, *history, ScalarType::Float, "history");
    const auto of_state = state.sizes(), of_history = history->sizes();
    check(of_history.size() == of_state.size() + 1 && of_history[0] >= std::max<int64_t>(earlier, 1) &&
              of_history[0] <= INT32_MAX && std::equal(of_state.begin(), of_state.end(), of_history.begin() + 1),
          "history is ", Shown{*history}, "; it must hold at least ", std::max<int64_t>(earlier, 1),
          " and fewer than 2^31 states like state, which is ", Shown{state});
  }
  if (output) {
    const auto of_state = state.sizes(), of_output = output->sizes();
    bool fits = of_output.size() == of_state.size();
    for (size_t i = 0; fits && i < of_state.size(); ++i) fits = of_output[i] * (i == 1 ? halves : 1) == of_state[i];
    check(fits, "network_output is ", Shown{*output}, "; it must have the shape of ",
          halves == 1 ? "state, which is " : "half of the channels of state, which is ", Shown{state});
  }
}

// Checks the state of a Langevin step; the network's output is checked by its dtype.
inline void require_langevin_state(const Tensor& state, const Tensor& output) {
  require(state, state, ScalarType::Float, "state");
  batch_of(state, "state");
  require_with(state, output, "network_output");
  require_shape_of(state, "state", output, "network_output");
}

inline void require_norms(const Tensor& first, const Tensor& norms, int64_t samples) {
  require(first, norms, ScalarType::Float, "norms");
  check(norms.dim() == 2 && norms.size(0) == samples && norms.size(1) == 2, "norms is ", Shown{norms}, "; it must be (",
        samples, ", 2)");
}

// Checks the divergence of hutchinson_dot and the tangent's batch.
inline void require_divergence(const Tensor& divergence, const Tensor& tangent) {
  require(divergence, divergence, ScalarType::Double, "divergence");
  const int64_t samples = batch_of(tangent, "tangent");
  check(divergence.dim() == 1 && divergence.size(0) == samples, "divergence is ", Shown{divergence}, "; it must be (",
        samples, ",), one for each sample of tangent");
}

}  // namespace ssf::torch_side

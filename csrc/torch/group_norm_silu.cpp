// SPDX-License-Identifier: Apache-2.0
// Registration of group_norm_silu and its derivatives, and division of their work among threads.
// scoresde_fast/ops/group_norm_silu.py defines them and explains invalid arguments.
#include "cpu/group_norm_silu.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/group_norm_silu_gradients.h"
#include "torch/arguments.h"
#include "torch/memory.h"

using ssf::torch_side::images_like;
using ssf::torch_side::is_channels_last;
using ssf::torch_side::uninitialised;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

// Minimum number of elements in a block of channels, about 20 us of work.
constexpr int64_t kPiece = 1 << 14;

// A vector's values as float32: its memory, or a copy.
class Floats {
 public:
  explicit Floats(const Tensor& vector) {
    STD_TORCH_CHECK(vector.is_cpu() && vector.is_contiguous(),
                    "group_norm_silu: a vector is not contiguous CPU memory");
    const void* data = vector.const_data_ptr();
    switch (vector.scalar_type()) {
      case ScalarType::Float:
        values_ = static_cast<const float*>(data);
        return;
      case ScalarType::BFloat16:
        copy<ssf::cpu::BFloat16>(data, vector.numel());
        return;
      case ScalarType::Half:
        copy<ssf::cpu::Half>(data, vector.numel());
        return;
      default:
        STD_TORCH_CHECK(false, "group_norm_silu: a vector is not float32, bfloat16 or float16");
    }
  }

  explicit Floats(const std::optional<Tensor>& vector) {
    if (vector) *this = Floats(*vector);
  }

  // Null for an absent vector.
  const float* data() const { return values_; }

 private:
  template <class T>
  void copy(const void* data, int64_t count) {
    const T* values = static_cast<const T*>(data);
    copy_.resize(count);
    for (int64_t i = 0; i < count; ++i) copy_[i] = ssf::cpu::widen(values[i]);
    values_ = copy_.data();
  }

  std::vector<float> copy_;
  const float* values_ = nullptr;
};

bool is_vector(const Tensor& tensor, int64_t size) { return tensor.dim() == 1 && tensor.size(0) == size; }

// Returns whether both are images with the same shape, dtype and memory format.
bool is_alike(const Tensor& image, const Tensor& like, bool channels_last) {
  if (image.dim() != 4 || !image.is_cpu() || image.scalar_type() != like.scalar_type()) return false;
  for (const int dim : {0, 1, 2, 3})
    if (image.size(dim) != like.size(dim)) return false;
  return channels_last ? is_channels_last(image) : image.is_contiguous();
}

// fir_resample with its defaults, which keep the image centred and the mean unchanged.
Tensor filtered(const Tensor& x, const std::vector<double>& taps, const std::string& direction) {
  const auto count = static_cast<int64_t>(taps.size());
  const bool up = direction == "up";
  const int64_t offset = up ? count - 2 - (count - 1) / 2 : count / 2;
  std::array<StableIValue, 5> stack{torch::stable::detail::from(x), torch::stable::detail::from(taps),
                                    torch::stable::detail::from(direction), torch::stable::detail::from(offset),
                                    torch::stable::detail::from(up ? 4.0 : 1.0)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("scoresde_fast_C::fir_resample", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Divides the groups of all samples among the threads; whole samples if there are enough of them.
template <class Work>
void for_each_block(const Tensor& x, int64_t groups, const Work& work) {
  const int64_t batch = x.size(0), sample = x.numel() / batch, threads = torch::stable::get_num_threads();
  const int64_t wanted = batch % threads == 0 ? 1 : (4 * threads + batch - 1) / batch;
  const int64_t blocks = std::clamp<int64_t>(std::min(wanted, sample / kPiece), 1, groups);
  torch::stable::parallel_for(0, batch * blocks, std::max<int64_t>(1, kPiece * blocks / sample),
                              [&](int64_t first, int64_t last) {
                                for (int64_t i = first; i < last; ++i) {
                                  const int64_t block = i % blocks;
                                  work(i / blocks, block * groups / blocks, (block + 1) * groups / blocks);
                                }
                              });
}

// Calls `work` with a value of the storage type.
template <class Work>
void with_element(ScalarType type, const Work& work) {
  switch (type) {
    case ScalarType::Float:
      work(float{});
      break;
    case ScalarType::BFloat16:
      work(ssf::cpu::BFloat16{});
      break;
    case ScalarType::Half:
      work(ssf::cpu::Half{});
      break;
    default:
      STD_TORCH_CHECK(false, "group_norm_silu: the images are not float32, bfloat16 or float16");
  }
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu_cpu(const Tensor x, const Tensor weight, const Tensor bias,
                                                       int64_t groups, double eps, std::optional<Tensor> shift,
                                                       std::optional<Tensor> residual, double scale, bool silu,
                                                       std::string resample, std::vector<double> taps) {
  STD_TORCH_CHECK(x.dim() == 4 && groups > 0 && x.size(1) % groups == 0, "group_norm_silu: x is not (B, C, H, W)");
  const bool channels_last = !x.is_contiguous();
  STD_TORCH_CHECK(!channels_last || is_channels_last(x), "group_norm_silu: x is neither contiguous nor channels_last");
  STD_TORCH_CHECK(is_vector(weight, x.size(1)) && is_vector(bias, x.size(1)) &&
                      (!shift || is_vector(*shift, x.size(1)) ||
                       (shift->dim() == 2 && shift->size(0) == x.size(0) && shift->size(1) == x.size(1))),
                  "group_norm_silu: a vector does not fit the channels of x");
  STD_TORCH_CHECK(!residual || is_alike(*residual, x, channels_last), "group_norm_silu: the residual is not like x");
  const Floats weights(weight), biases(bias), shifts(shift);
  const Tensor y = images_like(x, channels_last);
  const Tensor joined = residual ? images_like(x, channels_last) : uninitialised<1>({0}, {1}, x.scalar_type());
  const Tensor statistics = uninitialised<3>({x.size(0), groups, 2}, {2 * groups, 2, 1}, ScalarType::Float);
  if (x.numel() == 0) {
    with_element(x.scalar_type(), [](auto) {});
    std::fill_n(statistics.mutable_data_ptr<float>(), statistics.numel(), 0.0f);
    return {resample == "none" ? y : filtered(y, taps, resample), joined, statistics};
  }
  with_element(x.scalar_type(), [&]<class T>(T) {
    ssf::cpu::GroupNormSilu<T> op{};
    op.x = static_cast<const T*>(x.const_data_ptr());
    op.residual = residual ? static_cast<const T*>(residual->const_data_ptr()) : nullptr;
    op.shift = shifts.data();
    op.shift_stride = shift && shift->dim() == 2 ? x.size(1) : 0;
    op.weight = weights.data();
    op.bias = biases.data();
    op.y = static_cast<T*>(y.mutable_data_ptr());
    op.joined = static_cast<T*>(joined.mutable_data_ptr());
    op.statistics = statistics.mutable_data_ptr<float>();
    op.channels = x.size(1);
    op.pixels = x.size(2) * x.size(3);
    op.groups = groups;
    op.channels_last = channels_last;
    op.eps = static_cast<float>(eps);
    op.scale = static_cast<float>(scale);
    op.silu = silu;
    for_each_block(x, groups, [&](int64_t sample, int64_t first, int64_t last) {
      ssf::cpu::group_norm_silu(op, sample, first, last);
    });
  });
  return {resample == "none" ? y : filtered(y, taps, resample), joined, statistics};
}

// Common part of gradient and tangent; `change` is the gradient of y, or the tangent of h.
struct Derivative {
  const Tensor& change;
  const std::optional<Tensor>& grad_h;
  const Tensor& source;
  const std::optional<Tensor>& shift;
  const Tensor &statistics, &weight, &bias;
  int64_t groups;
  double scale;
  bool joined, silu;
};

Tensor channel_sums(const Tensor& source) {
  const std::array<int64_t, 2> shape{source.size(0), source.size(1)};
  return torch::stable::new_zeros(source, {shape.data(), shape.size()}, ScalarType::Float);
}

// `sums`: the gradients of weight, bias and shift of each sample; null for a tangent.
Tensor differentiate(const Derivative& of, float* const* sums) {
  const Tensor& source = of.source;
  const bool channels_last = !source.is_contiguous();
  const auto same = [&](const Tensor& other) { return is_alike(other, source, channels_last); };
  STD_TORCH_CHECK(source.dim() == 4 && of.groups > 0 && source.size(1) % of.groups == 0 && same(source) &&
                      same(of.change) && (!of.grad_h || same(*of.grad_h)),
                  "group_norm_silu: the images of a derivative are not alike");
  STD_TORCH_CHECK(of.statistics.scalar_type() == ScalarType::Float && of.statistics.is_contiguous(),
                  "group_norm_silu: the statistics are not contiguous float32");
  const Tensor out = images_like(source, channels_last);
  if (source.numel() == 0) return out;
  const bool shifted = of.shift && !of.joined;
  const Floats weights(of.weight), biases(of.bias), shifts(shifted ? of.shift : std::nullopt);
  with_element(source.scalar_type(), [&]<class T>(T) {
    ssf::cpu::GroupNormGradient<T> op{};
    op.source = static_cast<const T*>(source.const_data_ptr());
    op.change = static_cast<const T*>(of.change.const_data_ptr());
    op.grad_h = of.grad_h ? static_cast<const T*>(of.grad_h->const_data_ptr()) : nullptr;
    op.shift = shifts.data();
    op.shift_stride = shifted && of.shift->dim() == 2 ? source.size(1) : 0;
    op.statistics = of.statistics.const_data_ptr<float>();
    op.weight = weights.data();
    op.bias = biases.data();
    op.out = static_cast<T*>(out.mutable_data_ptr());
    op.channels = source.size(1);
    op.pixels = source.size(2) * source.size(3);
    op.groups = of.groups;
    op.channels_last = channels_last;
    op.scale = of.joined ? 1.0f : static_cast<float>(of.scale);
    op.out_scale = static_cast<float>(of.scale);
    op.silu = of.silu;
    if (sums) {
      op.grad_weight = sums[0];
      op.grad_bias = sums[1];
      op.grad_shift = sums[2];
    }
    for_each_block(source, of.groups, [&](int64_t sample, int64_t first, int64_t last) {
      sums ? ssf::cpu::group_norm_silu_backward(op, sample, first, last)
           : ssf::cpu::group_norm_silu_tangent(op, sample, first, last);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> group_norm_silu_backward_cpu(
    const Tensor grad_y, std::optional<Tensor> grad_h, const Tensor source, std::optional<Tensor> shift,
    const Tensor statistics, const Tensor weight, const Tensor bias, int64_t groups, double scale, bool joined,
    bool silu) {
  const Tensor of_weight = channel_sums(source), of_bias = channel_sums(source), of_shift = channel_sums(source);
  float* const sums[3] = {of_weight.mutable_data_ptr<float>(), of_bias.mutable_data_ptr<float>(),
                          of_shift.mutable_data_ptr<float>()};
  const Tensor grad_x =
      differentiate({grad_y, grad_h, source, shift, statistics, weight, bias, groups, scale, joined, silu}, sums);
  const std::array<int64_t, 1> batch{0};
  const auto total = [&](const Tensor& part) {
    return torch::stable::to(torch::stable::sum(part, torch::headeronly::IntHeaderOnlyArrayRef(batch.data(), 1)),
                             weight.scalar_type());
  };
  return {grad_x, total(of_weight), total(of_bias), of_shift};
}

Tensor group_norm_silu_tangent_cpu(const Tensor tangent, const Tensor source, std::optional<Tensor> shift,
                                   const Tensor statistics, const Tensor weight, const Tensor bias, int64_t groups,
                                   double scale, bool joined, bool silu) {
  return differentiate({tangent, std::nullopt, source, shift, statistics, weight, bias, groups, scale, joined, silu},
                       nullptr);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(scoresde_fast_C, m) {
  m.def(
      "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? shift, Tensor? residual, "
      "float scale, bool silu, str resample, float[] taps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm_silu_backward(Tensor grad_y, Tensor? grad_h, Tensor source, Tensor? shift, Tensor statistics, "
      "Tensor weight, Tensor bias, int groups, float scale, bool joined, bool silu) -> (Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "group_norm_silu_tangent(Tensor tangent, Tensor source, Tensor? shift, Tensor statistics, Tensor weight, "
      "Tensor bias, int groups, float scale, bool joined, bool silu) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(scoresde_fast_C, CPU, m) {
  m.impl("group_norm_silu", TORCH_BOX(&group_norm_silu_cpu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&group_norm_silu_backward_cpu));
  m.impl("group_norm_silu_tangent", TORCH_BOX(&group_norm_silu_tangent_cpu));
}

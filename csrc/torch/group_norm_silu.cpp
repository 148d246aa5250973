// SPDX-License-Identifier: Apache-2.0
// Registration of group_norm_silu and its derivatives, and division of their work among threads.
// scoresde_fast/ops/group_norm_silu.py defines them and explains invalid arguments.
#include "cpu/group_norm_silu.h"

#include <tuple>

#include "cpu/group_norm_silu_gradients.h"
#include "torch/arguments.h"
#include "torch/filter.h"
#include "torch/memory.h"

namespace ssf::torch_side {
namespace {

// Minimum number of elements in a block of channels, about 20 us of work.
constexpr int64_t kBlock = 1 << 14;

// A vector's values as float32: its memory, or a copy.
class Floats {
 public:
  explicit Floats(const Tensor& vector) {
    const void* data = vector.const_data_ptr();
    if (vector.scalar_type() == ScalarType::Float) values_ = static_cast<const float*>(data);
    if (vector.scalar_type() == ScalarType::BFloat16) copy<cpu::BFloat16>(data, vector.numel());
    if (vector.scalar_type() == ScalarType::Half) copy<cpu::Half>(data, vector.numel());
  }

  explicit Floats(const MaybeTensor& vector) {
    if (vector) *this = Floats(*vector);
  }

  // Null for an absent vector.
  const float* data() const { return values_; }

 private:
  template <class T>
  void copy(const void* data, int64_t count) {
    const T* values = static_cast<const T*>(data);
    copy_.resize(count);
    for (int64_t i = 0; i < count; ++i) copy_[i] = cpu::widen(values[i]);
    values_ = copy_.data();
  }

  std::vector<float> copy_;
  const float* values_ = nullptr;
};

bool is_network_dtype(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

// Checks a parameter of the channels of x: (C,), or (B, C) if it may be one `of_samples`.
void require_channels(const Tensor& x, const Tensor& vector, bool of_samples, const char* name) {
  const int64_t dims = vector.dim(), channels = x.size(1);
  check(is_network_dtype(vector) && vector.is_contiguous() &&
            ((dims == 1 && vector.size(0) == channels) ||
             (of_samples && dims == 2 && vector.size(0) == x.size(0) && vector.size(1) == channels)),
        name, " is ", Shown{vector}, "; for ", channels,
        " channels it must be contiguous float32, bfloat16 or float16 (", channels, ",)",
        of_samples ? " or the same for each sample" : "");
  require_with(x, vector, name);
  require_memory(vector, vector.scalar_type(), name);
}

// Checks the image and the groups of its channels, and returns whether it is channels_last.
bool require_image(const Tensor& x, int64_t groups, const char* name) {
  check(is_network_dtype(x), name, " is ", Shown{x}, "; it must be float32, bfloat16 or float16");
  require_four(x, name);
  const bool channels_last = !x.is_contiguous();
  check(!channels_last || is_channels_last(x), name, " is ", Shown{x}, "; it must be contiguous or channels_last");
  require_memory(x, x.scalar_type(), name);
  const int64_t channels = x.size(1);
  check(groups > 0 && channels % groups == 0 && groups <= std::max<int64_t>(1, channels), "groups is ", groups,
        "; it must be a positive divisor of the ", channels, " channels of ", name);
  return channels_last;
}

// Checks that the image has the shape, dtype and memory format of `like`.
void require_alike(const Tensor& like, const char* like_name, bool channels_last, const Tensor& image,
                   const char* name) {
  check(image.scalar_type() == like.scalar_type() && same_shape(image, like) &&
            (channels_last ? is_channels_last(image) : image.is_contiguous()),
        name, " is ", Shown{image}, "; it must have dtype, shape and memory format of ", like_name, ", which is ",
        Shown{like});
  require_with(like, image, name);
  require_memory(image, image.scalar_type(), name);
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
  const int64_t blocks = std::clamp<int64_t>(std::min(wanted, sample / kBlock), 1, groups);
  torch::stable::parallel_for(0, batch * blocks, std::max<int64_t>(1, kBlock * blocks / sample),
                              [&](int64_t first, int64_t last) {
                                for (int64_t i = first; i < last; ++i) {
                                  const int64_t block = i % blocks;
                                  work(i / blocks, block * groups / blocks, (block + 1) * groups / blocks);
                                }
                              });
}

// Calls `work` with a value of the image's storage type.
template <class Work>
void with_element(const Tensor& image, const Work& work) {
  if (image.scalar_type() == ScalarType::Float) work(float{});
  if (image.scalar_type() == ScalarType::BFloat16) work(cpu::BFloat16{});
  if (image.scalar_type() == ScalarType::Half) work(cpu::Half{});
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu_cpu(const Tensor x, const Tensor weight, const Tensor bias,
                                                       int64_t groups, double eps, MaybeTensor shift,
                                                       MaybeTensor residual, double scale, bool silu,
                                                       std::string resample, std::vector<double> taps) {
  const bool channels_last = require_image(x, groups, "x");
  require_channels(x, weight, false, "weight");
  require_channels(x, bias, false, "bias");
  if (shift) require_channels(x, *shift, true, "shift");
  if (residual) require_alike(x, "x", channels_last, *residual, "residual");
  check(resample == "none" || resample == "up" || resample == "down", "resample is '", resample,
        "'; it must be 'none', 'up' or 'down'");
  if (resample != "none") require_filter(x, taps, resample);
  const Floats weights(weight), biases(bias), shifts(shift);
  const Tensor y = images_like(x, channels_last);
  const Tensor joined = residual ? images_like(x, channels_last) : uninitialised<1>({0}, {1}, x.scalar_type());
  const Tensor statistics = uninitialised<3>({x.size(0), groups, 2}, {2 * groups, 2, 1}, ScalarType::Float);
  if (x.numel() == 0) {
    std::fill_n(statistics.mutable_data_ptr<float>(), statistics.numel(), 0.0f);
    return {resample == "none" ? y : filtered(y, taps, resample), joined, statistics};
  }
  with_element(x, [&]<class T>(T) {
    cpu::GroupNormSilu<T> op{};
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
    for_each_block(x, groups,
                   [&](int64_t sample, int64_t first, int64_t last) { cpu::group_norm_silu(op, sample, first, last); });
  });
  return {resample == "none" ? y : filtered(y, taps, resample), joined, statistics};
}

// Common part of gradient and tangent; `change` is the gradient of y, or the tangent of h.
struct Derivative {
  const char* change_name;
  const Tensor& change;
  const MaybeTensor& grad_h;
  const Tensor& source;
  const MaybeTensor& shift;
  const Tensor &statistics, &weight, &bias;
  int64_t groups;
  double scale;
  bool joined, silu;
};

Tensor channel_sums(const Tensor& source) {
  const std::array<int64_t, 2> shape{source.size(0), source.size(1)};
  return torch::stable::new_zeros(source, {shape.data(), shape.size()}, ScalarType::Float);
}

// Checks the arguments, and returns whether the images are channels_last.
bool require_derivative(const Derivative& of) {
  const Tensor& source = of.source;
  const bool channels_last = require_image(source, of.groups, "source");
  require_alike(source, "source", channels_last, of.change, of.change_name);
  if (of.grad_h) require_alike(source, "source", channels_last, *of.grad_h, "grad_h");
  if (of.shift) require_channels(source, *of.shift, true, "shift");
  require_channels(source, of.weight, false, "weight");
  require_channels(source, of.bias, false, "bias");
  require(source, of.statistics, ScalarType::Float, "statistics");
  check(of.statistics.dim() == 3 && of.statistics.size(0) == source.size(0) && of.statistics.size(1) == of.groups &&
            of.statistics.size(2) == 2,
        "statistics is ", Shown{of.statistics}, "; it must be (", source.size(0), ", ", of.groups, ", 2)");
  return channels_last;
}

// `sums`: the gradients of weight, bias and shift of each sample; null for a tangent.
Tensor differentiate(const Derivative& of, bool channels_last, float* const* sums) {
  const Tensor& source = of.source;
  const Tensor out = images_like(source, channels_last);
  if (source.numel() == 0) return out;
  const bool shifted = of.shift && !of.joined;
  const Floats weights(of.weight), biases(of.bias), shifts(shifted ? of.shift : std::nullopt);
  with_element(source, [&]<class T>(T) {
    cpu::GroupNormGradient<T> op{};
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
      sums ? cpu::group_norm_silu_backward(op, sample, first, last)
           : cpu::group_norm_silu_tangent(op, sample, first, last);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> group_norm_silu_backward_cpu(const Tensor grad_y, MaybeTensor grad_h,
                                                                        const Tensor source, MaybeTensor shift,
                                                                        const Tensor statistics, const Tensor weight,
                                                                        const Tensor bias, int64_t groups, double scale,
                                                                        bool joined, bool silu) {
  const Derivative of{"grad_y", grad_y, grad_h, source, shift, statistics, weight, bias, groups, scale, joined, silu};
  const bool channels_last = require_derivative(of);
  const Tensor of_weight = channel_sums(source), of_bias = channel_sums(source), of_shift = channel_sums(source);
  float* const sums[3] = {of_weight.mutable_data_ptr<float>(), of_bias.mutable_data_ptr<float>(),
                          of_shift.mutable_data_ptr<float>()};
  const Tensor grad_x = differentiate(of, channels_last, sums);
  const std::array<int64_t, 1> batch{0};
  const auto total = [&](const Tensor& part) {
    return torch::stable::to(torch::stable::sum(part, torch::headeronly::IntHeaderOnlyArrayRef(batch.data(), 1)),
                             weight.scalar_type());
  };
  return {grad_x, total(of_weight), total(of_bias), of_shift};
}

Tensor group_norm_silu_tangent_cpu(const Tensor tangent, const Tensor source, MaybeTensor shift,
                                   const Tensor statistics, const Tensor weight, const Tensor bias, int64_t groups,
                                   double scale, bool joined, bool silu) {
  const MaybeTensor no_grad_h;
  const Derivative of{"tangent", tangent, no_grad_h, source, shift,  statistics,
                      weight,    bias,    groups,    scale,  joined, silu};
  return differentiate(of, require_derivative(of), nullptr);
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

}  // namespace ssf::torch_side

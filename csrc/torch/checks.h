// SPDX-License-Identifier: Apache-2.0
// Checks of an operator's arguments, made before a pointer to their memory. The Python wrappers explain most mistakes
// earlier; these also hold for direct calls through torch.ops. A failed check raises RuntimeError with one sentence:
// the argument, its value and what is allowed. Values inside tensors are checked where a kernel reads them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace ssf::torch_side {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The text is made only for a failure, so that a check costs a comparison.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  ((text << parts), ...);
  throw std::runtime_error(text.str());
}

template <class... Parts>
inline void check(bool allowed, const Parts&... parts) {
  if (!allowed) [[unlikely]]
    refuse(parts...);
}

inline const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline uintptr_t bytes_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    default:
      return 1;
  }
}

// Prints a tensor in a sentence: "float32 of shape (2, 3) and strides (3, 1)".
struct [[gnu::visibility("hidden")]] Shown {
  const Tensor& tensor;

  friend std::ostream& operator<<(std::ostream& out, const Shown& shown) {
    const auto list = [&](const char* title, torch::headeronly::IntHeaderOnlyArrayRef numbers) {
      out << title << "(";
      for (size_t i = 0; i < numbers.size(); ++i) out << (i ? ", " : "") << numbers[i];
      out << (numbers.size() == 1 ? ",)" : ")");
    };
    if (!shown.tensor.defined()) return out << "None";
    out << name_of(shown.tensor.scalar_type());
    list(" of shape ", shown.tensor.sizes());
    list(" and strides ", shown.tensor.strides());
    return out;
  }
};

// The tensor is on the device of the operator's first tensor.
inline void require_with(const Tensor& first, const Tensor& tensor, const char* name) {
  if (tensor.is_cpu() && first.is_cpu()) return;
  check(tensor.is_cuda() && first.is_cuda() && tensor.get_device_index() == first.get_device_index(), name,
        " is on another device than the operator's first tensor; move one of them");
}

// The storage holds all elements of a dense tensor of this dtype, aligned: storages can be resized under their tensors,
// and buffers of other libraries can begin anywhere.
inline void require_memory(const Tensor& tensor, ScalarType dtype, const char* name) {
  const int64_t count = tensor.numel();
  if (count == 0) return;
  int64_t stored = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_numel(tensor.get(), &stored));
  check(stored - tensor.storage_offset() >= count, name, " is ", Shown{tensor}, ", but its storage holds only ", stored,
        " elements; it must hold all");
  const uintptr_t size = bytes_of(dtype);
  check(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % size == 0, name, " is ", Shown{tensor},
        ", but its memory is not aligned to ", size, " bytes; copy it");
}

// The tensor is contiguous, of the dtype, and on the device of the first.
inline void require(const Tensor& first, const Tensor& tensor, ScalarType dtype, const char* name) {
  check(tensor.scalar_type() == dtype && tensor.is_contiguous(), name, " is ", Shown{tensor},
        "; it must be contiguous ", name_of(dtype));
  if (&tensor != &first) require_with(first, tensor, name);
  require_memory(tensor, dtype, name);
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  const auto of_a = a.sizes(), of_b = b.sizes();
  return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end());
}

inline void require_shape_of(const Tensor& like, const char* like_name, const Tensor& tensor, const char* name) {
  check(same_shape(like, tensor), name, " is ", Shown{tensor}, "; it must have the shape of ", like_name, ", which is ",
        Shown{like});
}

// The number of samples of a batch (B, ...).
inline int64_t batch_of(const Tensor& batch, const char* name) {
  check(batch.dim() > 0, name, " has no dimensions; it must be (B, ...)");
  return batch.size(0);
}

// Elements of one sample of a batch (B, ...).
inline int64_t sample_elements(const Tensor& batch) { return batch.size(0) ? batch.numel() / batch.size(0) : 0; }

inline void require_range(int64_t value, int64_t low, int64_t high, const char* name) {
  check(low <= value && value <= high, name, " is ", value, "; it must be from ", low, " to ", high);
}

// Kernels compute indices from products of sizes, of which an empty tensor bounds none.
constexpr int64_t kMostElements = int64_t{1} << 58;

// The product of the sizes, with empty dimensions counted as one, stays below kMostElements.
inline void require_room(const int64_t* sizes, size_t dims, const char* name) {
  int64_t product = 1;
  bool overflow = false;
  for (size_t i = 0; i < dims; ++i)
    overflow |= __builtin_mul_overflow(product, std::max<int64_t>(1, sizes[i]), &product);
  check(!overflow && product <= kMostElements, name, " is too large; its sizes must have a product of at most 2^58");
}

// The tensor is (B, C, H, W), or has four other dimensions.
inline void require_four(const Tensor& tensor, const char* name) {
  check(tensor.dim() == 4, name, " is ", Shown{tensor}, "; it must have four dimensions");
  require_room(tensor.sizes().data(), 4, name);
}

// Returns whether the memory of (B, C, H, W) is contiguous as (B, H, W, C); dimensions of size one are ignored.
inline bool is_channels_last(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (sizes[dim] != 1 && strides[dim] != expected) return false;
    expected *= sizes[dim];
  }
  return true;
}

}  // namespace ssf::torch_side

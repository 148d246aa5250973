// SPDX-License-Identifier: Apache-2.0
// Polyphase resampling: each output is a sum over the taps of its parity (up) or over all taps (down), one axis after
// the other, with float lines small enough for the L1 cache in between. Rows are contiguous, and if `inner` is large
// (channels_last) columns too. If it is small, a block of rows is stored with zeros between them, so that columns are
// shifted sums over the whole block; even and odd columns are interleaved (up) or split (down) in separate passes. For
// the filter of the networks in float, one pass suffices: cpu/fir_four_taps.h.
#include "cpu/fir_resample.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/host_device.h"
#include "cpu/fir_decimate.h"
#include "cpu/fir_four_taps.h"
#include "cpu/vectorize.h"

namespace ssf::cpu {
namespace {

// One axis: output n reads the inputs first(n), first(n) - 1, ... with the taps tap(n), tap(n) + step(), ...
struct Axis {
  bool up;
  int taps, offset;

  int step() const { return up ? 2 : 1; }
  int tap(int64_t n) const { return up ? static_cast<int>((n + offset) & 1) : 0; }
  int count(int64_t n) const { return up ? (taps + 1 - tap(n)) / 2 : taps; }
  int64_t first(int64_t n) const { return up ? (n + offset) >> 1 : 2 * n + offset; }
  int64_t last(int64_t n) const { return first(n) - count(n) + 1; }

  // Number of zeros that outputs [0, size) read before and after the inputs.
  int64_t front() const { return std::max<int64_t>(0, -std::min(last(0), last(1))); }
  int64_t back(int64_t length, int64_t size) const {
    return std::max<int64_t>(0, std::max(first(size - 1), first(std::max<int64_t>(size - 2, 0))) - length + 1);
  }
};

// out[i] = sum_t weight[t] in[t][i], of `count` lines.
template <class In, class Acc>
struct Sum {
  int count = 0;
  const In* in[kMaxTaps];
  Acc weight[kMaxTaps];

  void add(const In* line, Acc w) {
    in[count] = line;
    weight[count++] = w;
  }
};

// Computes output rows [begin, end), numbered over all planes, of n elements: reads input rows `in_stride` apart, of
// which `in` is row `origin`, and writes to `out`, which starts at row `begin`.
template <class In, class Acc, class Out>
struct Rows {
  Axis axis;
  const Acc* taps;
  int64_t height, out_height, begin, end, n;
  const In* in;
  int64_t origin, in_stride;
  const In* zeros;  // n zeros, for rows outside the plane
  Out* out;
  int64_t out_stride;
};

template <int kCount, class In, class Acc, class Out>
SSF_HD void sum_of(const Sum<In, Acc>& sum, int64_t n, Out* __restrict out) {
  const In *a = sum.in[0], *b = sum.in[kCount > 1 ? 1 : 0], *c = sum.in[kCount > 2 ? 2 : 0],
           *d = sum.in[kCount > 3 ? 3 : 0];
  const Acc wa = sum.weight[0], wb = sum.weight[1], wc = sum.weight[2], wd = sum.weight[3];
  for (int64_t i = 0; i < n; ++i) {
    Acc value = wa * widen(a[i]);
    if constexpr (kCount > 1) value += wb * widen(b[i]);
    if constexpr (kCount > 2) value += wc * widen(c[i]);
    if constexpr (kCount > 3) value += wd * widen(d[i]);
    narrow(value, out[i]);
  }
}

template <class In, class Acc, class Out>
SSF_HD void sum_of_many(const Sum<In, Acc>& sum, int64_t n, Out* __restrict out) {
  constexpr int64_t kPiece = 64;
  for (int64_t first = 0; first < n; first += kPiece) {
    const int64_t length = std::min(kPiece, n - first);
    Acc value[kPiece] = {};
    for (int t = 0; t < sum.count; ++t) {
      const In* line = sum.in[t] + first;
      for (int64_t i = 0; i < length; ++i) value[i] += sum.weight[t] * widen(line[i]);
    }
    for (int64_t i = 0; i < length; ++i) narrow(value[i], out[first + i]);
  }
}

template <class In, class Acc, class Out>
SSF_HD void sum_lines(const Sum<In, Acc>& sum, int64_t n, Out* __restrict out) {
  switch (sum.count) {
    case 1:
      return sum_of<1>(sum, n, out);
    case 2:
      return sum_of<2>(sum, n, out);
    case 3:
      return sum_of<3>(sum, n, out);
    case 4:
      return sum_of<4>(sum, n, out);
    default:
      return sum_of_many(sum, n, out);
  }
}

// kCount: maximum number of input rows per output row, or 0 if unknown at compile time.
template <int kCount, class In, class Acc, class Out>
SSF_HD void sum_rows_of(const Rows<In, Acc, Out>& rows) {
  const Axis axis = rows.axis;
  int64_t plane = rows.begin / rows.out_height, y = rows.begin % rows.out_height;
  Out* out = rows.out;
  Sum<In, Acc> sum;
  for (int64_t row = rows.begin; row < rows.end; ++row, out += rows.out_stride) {
    const int64_t first = axis.first(y);
    const In* line = rows.in + (plane * rows.height - rows.origin + first) * rows.in_stride;
    int tap = axis.tap(y);
    sum.count = kCount ? kCount : axis.count(y);
    if (first >= sum.count - 1 && first < rows.height && tap + (sum.count - 1) * axis.step() < axis.taps) {
      for (int t = 0; t < sum.count; ++t, tap += axis.step()) {
        sum.in[t] = line - t * rows.in_stride;
        sum.weight[t] = rows.taps[tap];
      }
    } else {
      for (int t = 0; t < sum.count; ++t, tap += axis.step()) {
        const bool inside = tap < axis.taps && first - t >= 0 && first - t < rows.height;
        sum.in[t] = inside ? line - t * rows.in_stride : rows.zeros;
        sum.weight[t] = inside ? rows.taps[tap] : Acc{0};
      }
    }
    if constexpr (kCount)
      sum_of<kCount>(sum, rows.n, out);
    else
      sum_of_many(sum, rows.n, out);
    if (++y == rows.out_height) y = 0, ++plane;
  }
}

template <class In, class Acc, class Out>
SSF_HD void sum_rows(const Rows<In, Acc, Out>& rows) {
  const int count = std::max(rows.axis.count(0), rows.axis.count(1));
  if (count <= 2) return sum_rows_of<2>(rows);
  if (count <= 4) return sum_rows_of<4>(rows);
  return sum_rows_of<0>(rows);
}

template <class In, class Out>
SSF_HD void copy_lines(const In* in, int64_t in_stride, Out* __restrict out, int64_t out_stride, int64_t n,
                       int64_t lines) {
  for (int64_t line = 0; line < lines; ++line)
    for (int64_t i = 0; i < n; ++i) narrow(widen(in[line * in_stride + i]), out[line * out_stride + i]);
}

// Interleaves runs of n elements from `even` and `odd`; kRun: n if known at compile time.
template <int kRun, class Acc>
SSF_HD void interleave_of(const Acc* even, const Acc* odd, int64_t runs, int64_t n, Acc* __restrict both) {
  n = kRun ? kRun : n;
  for (int64_t j = 0; j < runs; ++j)
    for (int64_t c = 0; c < n; ++c) both[2 * j * n + c] = even[j * n + c], both[(2 * j + 1) * n + c] = odd[j * n + c];
}

template <class Acc>
SSF_HD void interleave(const Acc* even, const Acc* odd, int64_t runs, int64_t n, Acc* both) {
  if (n == 1) return interleave_of<1>(even, odd, runs, n, both);
  if (n == 3) return interleave_of<3>(even, odd, runs, n, both);
  interleave_of<0>(even, odd, runs, n, both);
}

}  // namespace

// The vectorised loops, for element type T and type Acc of its sums.
#define SSF_FIR_LINES(T, Acc)                                                                          \
  SSF_VECTORIZE void fir_rows(const Rows<T, Acc, Acc>& rows) { sum_rows(rows); }                       \
  SSF_VECTORIZE void fir_decimate(const Decimate<Acc, T>& op) { decimate(op); }                        \
  SSF_VECTORIZE void fir_copy(const T* in, int64_t in_stride, Acc* out, int64_t out_stride, int64_t n, \
                              int64_t lines) {                                                         \
    copy_lines(in, in_stride, out, out_stride, n, lines);                                              \
  }
// If T is not Acc: from rows of sums back to T.
#define SSF_FIR_LINES_BACK(T, Acc) \
  SSF_VECTORIZE void fir_rows(const Rows<Acc, Acc, T>& rows) { sum_rows(rows); }
SSF_FIR_LINES(float, float)
SSF_FIR_LINES(BFloat16, float)
SSF_FIR_LINES_BACK(BFloat16, float)
SSF_FIR_LINES(Half, float)
SSF_FIR_LINES_BACK(Half, float)
SSF_FIR_LINES(double, double)
#undef SSF_FIR_LINES
#undef SSF_FIR_LINES_BACK
#define SSF_FIR_SUMS(Acc)                                                                                  \
  SSF_VECTORIZE void fir_sum(const Sum<Acc, Acc>& sum, int64_t n, Acc* out) { sum_lines(sum, n, out); }    \
  SSF_VECTORIZE void fir_interleave(const Acc* even, const Acc* odd, int64_t runs, int64_t n, Acc* both) { \
    interleave(even, odd, runs, n, both);                                                                  \
  }
SSF_FIR_SUMS(float)
SSF_FIR_SUMS(double)
#undef SSF_FIR_SUMS
SSF_VECTORIZE void fir_four_taps_up(const FourTaps& op, int64_t begin, int64_t end) { four_taps_up(op, begin, end); }
SSF_VECTORIZE void fir_four_taps_down(const FourTaps& op, int64_t begin, int64_t end) {
  four_taps_down(op, begin, end);
}
namespace {

template <class T, class Acc>
struct Kernel {
  const FirResample& op;
  const T* x;
  T* out;
  Axis axis;
  int64_t out_height, out_width, line, out_line;  // line, out_line: elements of a row
  Acc column_taps[kMaxTaps], row_taps[kMaxTaps];

  Kernel(const FirResample& o, const void* input, void* output)
      : op(o),
        x(static_cast<const T*>(input)),
        out(static_cast<T*>(output)),
        axis{o.up, o.taps, o.offset},
        out_height(o.out_height()),
        out_width(o.out_width()),
        line(o.width * o.inner),
        out_line(out_width * o.inner) {
    for (int t = 0; t < op.taps; ++t) {
      column_taps[t] = static_cast<Acc>(op.column_taps[t]);
      row_taps[t] = static_cast<Acc>(op.row_taps[t]);
    }
  }

  // Computes output column n of a line that starts at input column `origin`.
  Sum<Acc, Acc> columns(int64_t n, const Acc* values, int64_t origin) const {
    Sum<Acc, Acc> sum;
    const Acc* column = values + (axis.first(n) - origin) * op.inner;
    for (int t = axis.tap(n); t < op.taps; t += axis.step(), column -= op.inner) sum.add(column, row_taps[t]);
    return sum;
  }

  // Columns are contiguous runs of `inner` elements: first rows, into a line of sums, then columns, in the same way.
  void wide(int64_t begin, int64_t end) const {
    const int64_t inner = op.inner, piece = std::max<int64_t>(2, 8192 / inner & ~int64_t{1});
    const std::unique_ptr<Acc[]> sums(new Acc[std::min(op.width, 2 * piece + kMaxTaps) * inner]);
    const std::vector<T> zeros(std::min<int64_t>(op.width, 2 * piece + kMaxTaps) * inner, T{});
    const std::vector<Acc> zero_sums(inner, Acc{0});
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t n0 = 0; n0 < out_width; n0 += piece) {
        const int64_t n1 = std::min(n0 + piece, out_width);
        const int64_t low = std::min(axis.last(n0), axis.last(n0 + 1));
        const int64_t high = std::max(axis.first(n1 - 1), axis.first(std::max<int64_t>(n1 - 2, n0))) + 1;
        const int64_t from = std::clamp<int64_t>(low, 0, op.width), to = std::clamp<int64_t>(high, from, op.width);
        fir_rows(Rows<T, Acc, Acc>{axis, column_taps, op.height, out_height, row, row + 1, (to - from) * inner,
                                   x + from * inner, 0, line, zeros.data(), sums.get(), 0});
        fir_rows(Rows<Acc, Acc, T>{axis, row_taps, op.width, out_width, n0, n1, inner, sums.get(), from, inner,
                                   zero_sums.data(), out + (row * out_width + n0) * inner, inner});
      }
    }
  }

  // "up" with few elements per column: first the columns of all input rows of the block, then rows.
  void narrow_up(int64_t begin, int64_t end) const {
    const int64_t inner = op.inner, front = axis.front();
    const int64_t stride = (op.width + std::max(front, axis.back(op.width, out_width))) * inner;
    const int64_t block = 2 * std::max<int64_t>(8, 1024 / stride), edge = front * inner;
    const std::vector<Acc> zeros(out_line, Acc{0});
    std::vector<Acc> padded, result;
    for (int64_t b0 = begin; b0 < end; b0 += block) {
      const int64_t b1 = std::min(b0 + block, end);
      const int64_t top = std::clamp<int64_t>(axis.last(b0 % out_height) - 1, 0, op.height - 1);
      const int64_t bottom = std::clamp<int64_t>(axis.first((b1 - 1) % out_height), 0, op.height - 1);
      const int64_t g0 = b0 / out_height * op.height + top, g1 = (b1 - 1) / out_height * op.height + bottom + 1;
      const int64_t count = (g1 - g0) * stride;
      // The zeros between rows are not overwritten by blocks.
      padded.resize(std::max<size_t>(padded.size(), edge + count + kMaxTaps * inner), Acc{0});
      result.resize(std::max<size_t>(result.size(), 4 * count));
      fir_copy(x + g0 * line, line, padded.data() + edge, stride, line, g1 - g0);
      Acc *even = result.data(), *odd = even + count, *both = odd + count;
      fir_sum(columns(0, padded.data(), -front), count, even);
      fir_sum(columns(1, padded.data(), -front), count, odd);
      fir_interleave(even, odd, count / inner, inner, both);
      fir_rows(Rows<Acc, Acc, T>{axis, column_taps, op.height, out_height, b0, b1, out_line, both, g0, 2 * stride,
                                 zeros.data(), out + b0 * out_line, out_line});
    }
  }

  // "down" with few elements per column: first rows, for a block of output rows, then columns.
  void narrow_down(int64_t begin, int64_t end) const {
    const int64_t inner = op.inner, front = axis.front();
    const int64_t stride = (op.width + std::max(front, axis.back(op.width, out_width))) * inner;
    const int64_t block = std::min(std::max<int64_t>(8, 2048 / stride), end - begin);
    const std::vector<T> zeros(line, T{});
    // The zeros between rows are not overwritten by blocks.
    std::vector<Acc> padded(block * stride + front * inner, Acc{0});
    for (int64_t b0 = begin; b0 < end; b0 += block) {
      const int64_t rows = std::min(block, end - b0);
      fir_rows(Rows<T, Acc, Acc>{axis, column_taps, op.height, out_height, b0, b0 + rows, line, x, 0, line,
                                 zeros.data(), padded.data() + front * inner, stride});
      const Acc* first = padded.data() + (front + axis.last(0)) * inner;
      fir_decimate(Decimate<Acc, T>{row_taps, op.taps, rows, out_width, inner, first, stride, out + b0 * out_line});
    }
  }

  void four_taps(int64_t begin, int64_t end) const {
    const std::vector<float> zeros(line, 0.0f);
    std::vector<float> left(2 * op.inner);
    FourTaps four{op.height, op.width, op.inner, x, zeros.data(), out, left.data(), {}, {}};
    std::copy_n(column_taps, 4, four.column_taps);
    std::copy_n(row_taps, 4, four.row_taps);
    op.up ? fir_four_taps_up(four, begin, end) : fir_four_taps_down(four, begin, end);
  }

  void run(int64_t begin, int64_t end) const {
    if constexpr (std::is_same_v<T, float>) {
      if (four_taps_fit(op)) return four_taps(begin, end);
    }
    if (op.inner >= 8) return wide(begin, end);
    return op.up ? narrow_up(begin, end) : narrow_down(begin, end);
  }
};

}  // namespace

void fir_resample(const FirResample& op, Scalar scalar, const void* x, void* out, int64_t begin, int64_t end) {
  switch (scalar) {
    case Scalar::kFloat:
      return Kernel<float, float>(op, x, out).run(begin, end);
    case Scalar::kBFloat16:
      return Kernel<BFloat16, float>(op, x, out).run(begin, end);
    case Scalar::kHalf:
      return Kernel<Half, float>(op, x, out).run(begin, end);
    case Scalar::kDouble:
      return Kernel<double, double>(op, x, out).run(begin, end);
  }
}

}  // namespace ssf::cpu

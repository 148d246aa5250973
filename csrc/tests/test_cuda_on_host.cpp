// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels, run block by block on the host, against the formulas of csrc/core: sizes that end inside a quad,
// inside a block and beyond a block; both paths of access; all combinations of a step's registers.
// clang-format off: this header must come first, because it replaces the kernels' intrinsics.
#include "tests/cuda_on_host.h"
// clang-format on

#include <algorithm>

#include "core/box_muller.h"
#include "core/philox.h"
#include "core/step_table.h"
#include "cuda/affine_step.cuh"
#include "cuda/affine_step_pair.cuh"
#include "cuda/hutchinson_dot.cuh"
#include "cuda/langevin.cuh"
#include "cuda/normal.cuh"
#include "tests/check.h"

namespace {

using namespace ssf::cuda;
using ssf::test::check;

constexpr int kThreads = 64, kRounds = 2;
constexpr int64_t kSamples = 3, kRow = 1, kLength = 3, kEarlier = 3;
constexpr uint64_t kSeed = 0xfedcba9876543210;
constexpr uint32_t kDraw = 0xfffffffe;
const int64_t kIds[kSamples] = {0, int64_t{1} << 32, 0x7fffffffffffffff};
// Sizes of whole quads, where 520 exceeds a block's 512, and sizes that end within a quad.
const int64_t kWhole[] = {8, 512, 520}, kOdd[] = {1, 7, 63, 513};

// Values with a long period that are exact in bfloat16 and float16.
float value(int64_t i, int64_t register_number) {
  return static_cast<float>((i * 37 + register_number * 11) % 64 - 31) / 16;
}
uint16_t bits16(Type type, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (type == Type::bfloat16) return static_cast<uint16_t>(bits >> 16);
  const uint32_t exponent = bits >> 23 & 255;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (x == 0 ? 0 : (exponent - 112) << 10 | (bits >> 13 & 1023)));
}

// A register of its type, filled with `value`. It begins at a multiple of 16 bytes plus `offset` elements, and the last
// float of its memory is a guard.
struct Register {
  std::vector<float4> memory;
  Type type;
  int64_t count, offset;

  Register(Type type, int64_t count, int64_t number, int64_t offset)
      : memory(count / 4 + 3), type(type), count(count), offset(offset) {
    for (int64_t i = 0; i < count; ++i) {
      if (type == Type::float32)
        floats()[i] = value(i, number);
      else
        static_cast<uint16_t*>(data())[i] = bits16(type, value(i, number));
    }
    guard() = -99;
  }
  void* data() { return reinterpret_cast<char*>(memory.data() + 1) + offset * (type == Type::float32 ? 4 : 2); }
  float* floats() { return static_cast<float*>(data()); }
  float& guard() { return *reinterpret_cast<float*>(reinterpret_cast<char*>(memory.data() + memory.size()) - 4); }
};

// An element of a noise field, by the noise contract.
float element(Noise noise, int64_t sample, int64_t i) {
  const auto id = static_cast<uint64_t>(kIds[sample]);
  const ssf::Words words = ssf::philox(ssf::noise_counter(static_cast<uint32_t>(i / 4), kDraw, id), kSeed);
  if (noise == Noise::signs) return words.w[i % 4] >> 31 ? -1.0f : 1.0f;
  const int64_t first = i % 4 / 2 * 2;
  const auto transform = noise == Noise::fast ? &box_muller_fast : &ssf::box_muller;
  const ssf::NormalPair pair = transform(words.w[first], words.w[first + 1]);
  return i % 2 ? pair.sine : pair.cosine;
}

template <class COLUMNS>
struct HostTable {
  std::vector<float> coefficients;
  std::vector<int32_t> control{0, 0, 0, static_cast<int32_t>(kDraw), 7, 1};
  int32_t counter = 1;

  HostTable() : coefficients(2 * COLUMNS::width, NAN) {
    for (int i = 0; i < COLUMNS::width; ++i) coefficients[COLUMNS::width + i] = static_cast<float>(i * i % 23 + 1) / 9;
  }
  float at(int column) const { return coefficients[COLUMNS::width + column]; }
  int32_t slot() const { return control[ssf::ControlColumns::width + ssf::ControlColumns::slot]; }
  // The last row: by its index, or by a counter that points past the table and is clamped.
  Table table(bool counted) const {
    return {coefficients.data(), control.data(), {counted ? &counter : nullptr, false, counted ? 5 : kRow, 2}};
  }
};

// The grid of blocks whose threads have `quads` quads each.
Index3 grid(int64_t elements, int quads = 2) {
  const int64_t block = 4 * kThreads * quads;
  // 2 x 2 places for three samples, so that the third axis is used and one place is empty.
  return {static_cast<unsigned>(std::max<int64_t>(1, (elements + block - 1) / block)), 2, 2};
}

template <Noise NOISE>
void test_fields() {
  const Field field{kIds, kSeed, kDraw, NOISE};
  const auto run_one = [&](auto kernel, int64_t n, int64_t offset) {
    Register out(Type::float32, kSamples * n, 0, offset);
    run(grid(n), kThreads, kernel, out.floats(), kSamples, n, field, PhiloxKeys(kSeed));
    bool equal = out.guard() == -99;
    for (int64_t i = 0; i < kSamples * n; ++i) equal &= out.floats()[i] == element(NOISE, i / n, i % n);
    check(equal, "a field equals the contract's, bit for bit");
  };
  for (const int64_t n : kWhole) run_one(&field_kernel<NOISE, true, kThreads>, n, 0);
  for (const int64_t n : kOdd) run_one(&field_kernel<NOISE, false, kThreads>, n, 1);
}

// The expected step of element `i` of a plain state, in the kernel's order of additions.
struct Expected {
  float next, derived;
};

template <Noise NOISE, Type OUTPUT, bool LEAN, bool VECTOR>
void test_affine_step(int64_t n, bool saved, bool history, int earlier) {
  const int64_t count = kSamples * n, offset = VECTOR ? 0 : 1;
  const HostTable<ssf::Columns> table;
  Register x(Type::float32, count, 0, offset), s(Type::float32, count, 1, offset);
  Register d(Type::float32, kLength * count, 2, offset);
  Register o(OUTPUT == Type::none ? Type::float32 : OUTPUT, count, 3, offset);
  Step step{x.floats(),
            saved ? s.floats() : nullptr,
            history ? d.floats() : nullptr,
            OUTPUT == Type::none ? nullptr : o.data(),
            OUTPUT,
            earlier,
            kSamples,
            n,
            history ? kLength : 0,
            table.table(saved),
            {kIds, kSeed, 0, NOISE}};
  Index3 blocks = grid(n, kStepQuads<NOISE>);
  if (NOISE == Noise::none) {
    step.samples = 1;
    step.elements = count;
    blocks = {grid(count, kStepQuads<NOISE>).x, 1, 1};
  }
  run(blocks, kThreads, &affine_step_kernel<NOISE, OUTPUT, LEAN, VECTOR, kThreads>, step, PhiloxKeys(kSeed));

  using C = ssf::Columns;
  const int64_t newest = ssf::ring_place(table.slot(), 0, kLength) * count;
  bool equal = x.guard() == -99 && s.guard() == -99 && d.guard() == -99;
  for (int64_t i = 0; i < count; ++i) {
    float next = table.at(C::state) * value(i, 0);
    if (saved) next = std::fmaf(table.at(C::saved), value(i, 1), next);
    if (OUTPUT != Type::none) next = std::fmaf(table.at(C::output), value(i, 3), next);
    for (int k = 1; k <= earlier; ++k) {
      const int64_t place = ssf::ring_place(table.slot(), k, kLength) * count + i;
      next = std::fmaf(table.at(C::earlier1 + k - 1), value(place, 2), next);
    }
    if (NOISE != Noise::none) next = std::fmaf(table.at(C::noise), element(NOISE, i / n, i % n), next);
    const float derived = std::fmaf(table.at(C::derive_output), value(i, 3), table.at(C::derive_state) * value(i, 0));
    equal &= x.floats()[i] == next && s.floats()[i] == value(i, saved ? 0 : 1);
    for (int64_t place = i; place < kLength * count; place += count)
      equal &=
          d.floats()[place] == (history && OUTPUT != Type::none && place == newest + i ? derived : value(place, 2));
  }
  check(equal, "a step equals the formula, bit for bit");
}

// The first half of a sample is x, the second v.
template <Noise NOISE, Type OUTPUT, bool LEAN, bool VECTOR>
void test_affine_step_pair(int64_t half, bool saved, bool history, int earlier) {
  const int64_t n = 2 * half, count = kSamples * n, offset = VECTOR ? 0 : 1;
  const HostTable<ssf::PairColumns> table;
  Register u(Type::float32, count, 0, offset), s(Type::float32, count, 1, offset);
  Register d(Type::float32, kLength * count, 2, offset);
  Register o(OUTPUT == Type::none ? Type::float32 : OUTPUT, count / 2, 3, offset);
  Step step{u.floats(),
            saved ? s.floats() : nullptr,
            history ? d.floats() : nullptr,
            OUTPUT == Type::none ? nullptr : o.data(),
            OUTPUT,
            earlier,
            kSamples,
            n,
            history ? kLength : 0,
            table.table(saved),
            {kIds, kSeed, 0, NOISE}};
  run(grid(half, kStepQuads<NOISE>), kThreads, &affine_step_pair_kernel<NOISE, OUTPUT, LEAN, VECTOR, kThreads>, step,
      PhiloxKeys(kSeed));

  using C = ssf::PairColumns;
  const int64_t newest = ssf::ring_place(table.slot(), 0, kLength) * count;
  bool equal = u.guard() == -99 && s.guard() == -99 && d.guard() == -99;
  for (int64_t i = 0; i < count / 2; ++i) {
    const int64_t sample = i / half, e = i % half, at[2] = {sample * n + e, sample * n + half + e};
    for (int side = 0; side < 2; ++side) {
      float next = 0, derived = 0;
      const auto act = [&](float& sum, int first, int64_t number, int64_t shift) {
        for (int from = 0; from < 2; ++from)
          sum = std::fmaf(table.at(first + 2 * side + from), value(shift + at[from], number), sum);
      };
      act(next, C::state, 0, 0);
      if (saved) act(next, C::saved, 1, 0);
      if (OUTPUT != Type::none) next = std::fmaf(table.at(C::output + side), value(i, 3), next);
      for (int k = 1; k <= earlier; ++k)
        act(next, C::earlier1 + 4 * (k - 1), 2, ssf::ring_place(table.slot(), k, kLength) * count);
      if (NOISE != Noise::none) {
        next = std::fmaf(table.at(C::noise + side), element(NOISE, sample, e), next);
        if (side) next = std::fmaf(table.at(C::noise + 2), element(NOISE, sample, half + e), next);
      }
      act(derived, C::derive_state, 0, 0);
      derived = std::fmaf(table.at(C::derive_output + side), value(i, 3), derived);
      equal &= u.floats()[at[side]] == next && s.floats()[at[side]] == value(at[side], saved ? 0 : 1);
      for (int64_t place = at[side]; place < kLength * count; place += count)
        equal &= d.floats()[place] ==
                 (history && OUTPUT != Type::none && place == newest + at[side] ? derived : value(place, 2));
    }
  }
  check(equal, "a step of pairs equals the formula, bit for bit");
}

template <Noise NOISE, Type OUTPUT>
void test_steps() {
  for (const int64_t n : kWhole) {
    test_affine_step<NOISE, OUTPUT, true, true>(n, false, false, 0);
    test_affine_step_pair<NOISE, OUTPUT, true, true>(n, false, false, 0);
  }
  for (int registers = 0; registers < 4; ++registers) {
    const bool saved = registers & 1, history = registers & 2;
    for (int earlier = 0; earlier <= (history ? kEarlier : 0); ++earlier) {
      test_affine_step<NOISE, OUTPUT, false, true>(520, saved, history, earlier);
      test_affine_step<NOISE, OUTPUT, false, false>(kOdd[earlier], saved, history, earlier);
      test_affine_step_pair<NOISE, OUTPUT, false, true>(520, saved, history, earlier);
      test_affine_step_pair<NOISE, OUTPUT, false, false>(kOdd[earlier], saved, history, earlier);
    }
  }
}

template <Noise NOISE, Type OUTPUT, bool VECTOR>
void test_langevin(int64_t n) {
  const int64_t offset = VECTOR ? 0 : 1;
  const HostTable<ssf::Columns> table;
  Register x(Type::float32, kSamples * n, 0, offset), o(OUTPUT, kSamples * n, 3, offset);
  const Field field{kIds, kSeed, 0, NOISE};
  const auto blocks = static_cast<int64_t>(grid(n, 2 * kRounds).x);
  std::vector<float> norms(kSamples * 2, NAN), parts(kSamples * blocks * 2, NAN), mean(2, NAN);
  LangevinNorms at{o.data(), OUTPUT, norms.data(),      blocks > 1 ? parts.data() : nullptr,
                   kSamples, n,      table.table(true), field};
  run(grid(n, 2 * kRounds), kThreads, &langevin_norms_kernel<NOISE, OUTPUT, VECTOR, kRounds, kThreads>, at,
      PhiloxKeys(kSeed));
  if (blocks > 1)
    run({2, 1, 1}, kThreads, &langevin_norms_sum_kernel<kThreads>, norms.data(),
        static_cast<const float*>(parts.data()), kSamples, blocks);
  run({1, 1, 1}, kThreads, &langevin_mean_kernel<kThreads>, mean.data(), static_cast<const float*>(norms.data()),
      kSamples);
  double means[2] = {0, 0};
  bool close = true;
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    double exact[2] = {0, 0};
    for (int64_t i = 0; i < n; ++i) {
      const double score = static_cast<double>(table.at(ssf::Columns::derive_output)) * value(sample * n + i, 3);
      const double z = element(NOISE, sample, i);
      exact[0] += score * score;
      exact[1] += z * z;
    }
    for (int i = 0; i < 2; ++i) {
      close &= ssf::test::ulps(norms[2 * sample + i], exact[i]) <= 4;
      means[i] += std::sqrt(exact[i]) / kSamples;
    }
  }
  for (int i = 0; i < 2; ++i) close &= ssf::test::ulps(mean[i], means[i] * means[i]) <= 4;
  check(close, "the norms and their mean equal the sums");

  for (const bool per_sample : {true, false}) {
    Register next(Type::float32, kSamples * n, 0, offset);
    LangevinStep step{
        next.floats(),      o.data(), OUTPUT, norms.data(), per_sample ? nullptr : mean.data(), kSamples, n,
        table.table(false), field};
    run(grid(n), kThreads, &langevin_step_kernel<NOISE, OUTPUT, VECTOR, kThreads>, step, PhiloxKeys(kSeed));
    bool equal = next.guard() == -99;
    for (int64_t i = 0; i < kSamples * n; ++i) {
      const float* squares = per_sample ? &norms[i / n * 2] : mean.data();
      const float size = table.at(ssf::Columns::langevin) * (squares[1] / squares[0]);
      const float moved = std::fmaf(size * table.at(ssf::Columns::derive_output), value(i, 3), value(i, 0));
      equal &= next.floats()[i] == std::fmaf(std::sqrt(2 * size), element(NOISE, i / n, i % n), moved);
    }
    check(equal, "the corrector equals the formula, bit for bit");
  }
}

template <Noise NOISE, Type TANGENT, bool VECTOR>
void test_hutchinson(int64_t n) {
  Register tangent(TANGENT, kSamples * n, 3, VECTOR ? 0 : 1);
  const float rows[4] = {NAN, NAN, 0.5f, 0.25f};
  const auto blocks = static_cast<int64_t>(grid(n, 2 * kRounds).x);
  std::vector<double> divergence(kSamples, 2), parts(kSamples * blocks, NAN);
  HutchinsonDot at{
      divergence.data(),         blocks > 1 ? parts.data() : nullptr, tangent.data(), TANGENT, kSamples, n, rows,
      {nullptr, false, kRow, 2}, {kIds, kSeed, kDraw, NOISE}};
  run(grid(n, 2 * kRounds), kThreads, &hutchinson_dot_kernel<NOISE, TANGENT, VECTOR, kRounds, kThreads>, at,
      PhiloxKeys(kSeed));
  if (blocks > 1) run({2, 1, 1}, kThreads, &hutchinson_dot_sum_kernel<kThreads>, at, blocks);
  bool close = true;
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    double dot = 0;
    for (int64_t i = 0; i < n; ++i) dot += static_cast<double>(element(NOISE, sample, i)) * value(sample * n + i, 3);
    close &= std::fabs(divergence[sample] - (2.5 + 0.25 * dot)) <= 1e-12 * n;
  }
  check(close, "the divergence equals the sum in float64");
}

template <Noise NOISE, Type TYPE>
void test_sums() {
  for (const int64_t n : {0, 8, 1024, 2568}) {
    if constexpr (NOISE != Noise::signs) test_langevin<NOISE, TYPE, true>(n);
    test_hutchinson<NOISE, TYPE, true>(n);
  }
  for (const int64_t n : {1, 63, 2049}) {
    if constexpr (NOISE != Noise::signs) test_langevin<NOISE, TYPE, false>(n);
    test_hutchinson<NOISE, TYPE, false>(n);
  }
}

}  // namespace

int main() {
  test_fields<Noise::fast>();
  test_fields<Noise::precise>();
  test_fields<Noise::signs>();
  test_steps<Noise::none, Type::none>();
  test_steps<Noise::none, Type::bfloat16>();
  test_steps<Noise::fast, Type::float16>();
  test_steps<Noise::precise, Type::none>();
  test_steps<Noise::precise, Type::float32>();
  test_steps<Noise::precise, Type::bfloat16>();
  test_sums<Noise::fast, Type::float32>();
  test_sums<Noise::precise, Type::bfloat16>();
  test_sums<Noise::signs, Type::float16>();
  // More parts than a warp has lanes.
  test_langevin<Noise::fast, Type::float32, true>(33 * 1024);
  test_hutchinson<Noise::signs, Type::float16, true>(33 * 1024);
  return ssf::test::failures != 0;
}

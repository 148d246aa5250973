// SPDX-License-Identifier: Apache-2.0
// The vectorised kernel equals the core formula for any length, and a split into ranges gives the same field.
#include <algorithm>
#include <vector>

#include "core/box_muller.h"
#include "core/philox.h"
#include "cpu/normal.h"
#include "tests/check.h"

namespace {

constexpr uint64_t kSeed = 0xfedcba9876543210, kSample = 0x123456789;
constexpr uint32_t kDraw = 3;
constexpr ssf::cpu::Field kField{kSeed, kSample, kDraw};

float element(int64_t i) {
  const ssf::Words words = ssf::philox(ssf::noise_counter(static_cast<uint32_t>(i / 4), kDraw, kSample), kSeed);
  const int first = i % 4 / 2 * 2;
  const ssf::NormalPair pair = ssf::box_muller(words.w[first], words.w[first + 1]);
  return i % 2 ? pair.sine : pair.cosine;
}

// The words do not depend on the instructions that make_words uses, even where the call index wraps.
void test_words() {
  for (const uint32_t first : {0u, 5u, 0xFFFFFFF0u}) {
    ssf::cpu::Block words, anywhere;
    ssf::cpu::make_words(words, kField, first, ssf::cpu::kCalls);
    ssf::cpu::make_words_anywhere(anywhere, kField, first, ssf::cpu::kCalls);
    ssf::test::check(std::equal(&words[0][0], &words[0][0] + ssf::cpu::kBlock, &anywhere[0][0]),
                     "words are the same without special instructions");
  }
}

}  // namespace

int main() {
  test_words();
  for (const int64_t n : {0, 1, 3, 4, 63, 127, 128, 129, 500, 768}) {
    std::vector<float> field(n + 1, -99.0f);
    ssf::cpu::normal(field.data(), 0, n, kField);
    bool equal = true;
    for (int64_t i = 0; i < n; ++i) equal &= field[i] == element(i);
    ssf::test::check(equal, "the kernel agrees with the core bit for bit");
    ssf::test::check(field[n] == -99.0f, "nothing is written past the end");

    std::vector<float> parts(n);
    const int64_t cut = n / 8 * 4;
    ssf::cpu::normal(parts.data(), 0, cut, kField);
    ssf::cpu::normal(parts.data(), cut, n, kField);
    field.pop_back();
    ssf::test::check(parts == field, "two ranges give the same field");
  }
  return ssf::test::failures;
}

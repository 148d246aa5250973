// SPDX-License-Identifier: Apache-2.0
// Python module of csrc/core, which the Python tests compare with scoresde_fast/rng.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "core/box_muller.h"
#include "core/philox.h"

namespace py = pybind11;

PYBIND11_MODULE(ssf_core_binding, m) {
  m.def("philox", [](std::array<uint32_t, 4> c, uint64_t key) {
    const ssf::Words words = ssf::philox({{c[0], c[1], c[2], c[3]}}, key);
    return py::make_tuple(words.w[0], words.w[1], words.w[2], words.w[3]);
  });
  m.def("box_muller", [](uint32_t radius_word, uint32_t angle_word) {
    const ssf::NormalPair pair = ssf::box_muller(radius_word, angle_word);
    return py::make_tuple(pair.cosine, pair.sine);
  });
}

// SPDX-License-Identifier: Apache-2.0
// The Python module. The operators register themselves when it is loaded, each from its own file, through PyTorch's
// stable ABI (2.11 on), in a separate namespace: the schemas of `scoresde_fast` are defined in Python, with or
// without the extension.
#include <Python.h>

// An empty module, so that importing scoresde_fast._C loads the registrations.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

# SPDX-License-Identifier: Apache-2.0
"""The operator namespace ``scoresde_fast``: schemas, references and fakes, defined in Python.

The C++ operators live in a namespace of their own, ``scoresde_fast_C``, so that a missing or older extension can never
clash with a schema defined here.
"""

from torch.library import Library

library = Library("scoresde_fast", "DEF")

# SPDX-License-Identifier: Apache-2.0
"""``python -m scoresde_fast.cli``: the same as ``python -m scoresde_fast``."""

import runpy

runpy.run_module("scoresde_fast", run_name="__main__")

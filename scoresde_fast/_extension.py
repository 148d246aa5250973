# SPDX-License-Identifier: Apache-2.0
"""Loads the C++ operators (``scoresde_fast::_C``) once, and remembers why when they are not there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch  # noqa: F401 - loads the libraries that the extension links against


def _load() -> str | None:
    if find_spec("scoresde_fast._C") is None:
        return "the C++ extension was not built (needs a C++ compiler: pip install --no-build-isolation .)"
    try:
        import_module("scoresde_fast._C")
    except (ImportError, OSError, RuntimeError) as error:
        return f"the C++ extension does not load: {str(error).splitlines()[0]}"
    return None


#: None when the extension is loaded, else one sentence that says why not.
why_missing: str | None = _load()

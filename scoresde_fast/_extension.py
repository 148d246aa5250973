# SPDX-License-Identifier: Apache-2.0
"""Loads the C++ operators (``scoresde_fast::_C``) once, and remembers why when they are not there."""

from __future__ import annotations

import json
import warnings
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import torch  # loads the libraries that the extension links against

RECORDED = Path(__file__).with_name("why_no_extension.txt")
"""What setup.py writes where it builds without the extension."""


def _load() -> str | None:
    if find_spec("scoresde_fast._C") is None:
        recorded = RECORDED.read_text().strip() if RECORDED.is_file() else "this is a checkout that was never installed"
        return f"the C++ extension is missing: {recorded}"
    try:
        import_module("scoresde_fast._C")
    except (ImportError, OSError, RuntimeError) as error:
        return f"the C++ extension does not load with torch {torch.__version__}: {str(error).splitlines()[0]}"
    return None


#: None when the extension is loaded, else one sentence that says why not.
why_missing: str | None = _load()


def build_command() -> str:
    """The command that builds the extension from where the package was installed from, or says why it cannot."""
    source = "."
    try:
        origin = json.loads(metadata.distribution("scoresde-fast").read_text("direct_url.json") or "null")
        source = origin["url"].removeprefix("file://") if origin else "scoresde-fast"
        if origin and origin.get("dir_info", {}).get("editable"):
            source = f"--editable {source}"
    except metadata.PackageNotFoundError:
        pass
    return f"SCORESDE_FAST_EXT=require pip install --force-reinstall --no-deps {source}"


def warn_once() -> None:
    """Warns, once in a process, that operations run in plain PyTorch for want of the extension."""
    global _warned
    if why_missing and not _warned:
        _warned = True
        warnings.warn(
            f"scoresde_fast runs in plain PyTorch on the CPU, several times slower than it could: {why_missing}. "
            f"To build the extension: {build_command()}",
            RuntimeWarning,
            stacklevel=2,
        )


_warned = False

# SPDX-License-Identifier: Apache-2.0
"""Loads the C++ operators (``scoresde_fast::_C``) once, and remembers why when they are not there."""

from __future__ import annotations

import json
import shlex
import warnings
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch  # loads the libraries that the extension links against

RECORDED = Path(__file__).with_name("why_no_extension.txt")
"""What setup.py writes where it builds without the extension."""


def _load() -> str | None:
    if find_spec("scoresde_fast._C") is None:
        recorded = RECORDED.read_text(encoding="utf-8").strip() if RECORDED.is_file() else "it was never built"
        return f"the C++ extension is missing: {recorded}"
    try:
        import_module("scoresde_fast._C")
    except (ImportError, OSError, RuntimeError) as error:
        return f"the C++ extension does not load with torch {torch.__version__}: {str(error).splitlines()[0]}"
    return None


#: None when the extension is loaded, else one sentence that says why not.
why_missing: str | None = _load()


def build_command() -> str:
    """The command that builds the extension, from the folder, repository or index that the package came from."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.py").is_file():
        source = f"--editable {shlex.quote(str(checkout))}"
    else:
        source = _origin() or "--no-cache-dir --no-binary scoresde-fast scoresde-fast"
    return f"SCORESDE_FAST_EXT=require pip install --force-reinstall --no-deps {source}"


def _origin() -> str | None:
    """Where pip took the package's sources from; None: the index."""
    try:
        found = json.loads(metadata.distribution("scoresde-fast").read_text("direct_url.json") or "null")
    except metadata.PackageNotFoundError:
        return None
    if not found or found["url"].endswith(".whl"):
        return None
    if repository := found.get("vcs_info"):
        return shlex.quote(f"{repository['vcs']}+{found['url']}@{repository['commit_id']}")
    url = urlparse(found["url"])
    return shlex.quote(url2pathname(url.path) if url.scheme == "file" else found["url"])


def warn_once(why: str) -> None:
    """Warns, once in a process, that operations run in plain PyTorch for want of the extension."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"scoresde_fast runs in plain PyTorch on the CPU, which is slower than its own kernels: {why}. "
            f"SCORESDE_FAST_BACKEND=reference silences this warning. To build the extension: {build_command()}",
            RuntimeWarning,
            stacklevel=2,
        )


_warned = False

# SPDX-License-Identifier: Apache-2.0
"""The C++ extension: loads its operators once, and keeps the reason where they are missing."""

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
"""Written by setup.py where it builds without the extension: the reason."""
TORCH = (2, 11)
"""The oldest torch with the stable ABI that the extension is built for."""


def build_command() -> str:
    """Return the command that builds the extension, from the package's folder, repository or index."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.py").is_file():
        source = f"--editable {shlex.quote(str(checkout))}"
    else:
        source = _origin() or "--no-cache-dir --no-binary scoresde-fast scoresde-fast"
    return f"SCORESDE_FAST_EXT=require pip install --force-reinstall --no-deps {source}"


def _origin() -> str | None:
    """The origin of the sources that pip installed; None: the index."""
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


def _load() -> str | None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        oldest = ".".join(map(str, TORCH))
        needs = f"needs {oldest} or newer: pip install --upgrade 'torch>={oldest}'"
        return f"torch {torch.__version__} is too old for the C++ extension, which {needs}"
    if find_spec("scoresde_fast._C") is None:
        recorded = RECORDED.read_text(encoding="utf-8").strip() if RECORDED.is_file() else "it was never built"
        return f"the C++ extension is missing: {recorded}; to build it: {build_command()}"
    try:
        import_module("scoresde_fast._C")
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        return f"the C++ extension does not load with torch {torch.__version__}: {why}; to build it: {build_command()}"
    return None


#: None if the extension is loaded, else one sentence that says why not and what to do.
why_missing: str | None = _load()


def warn_once(device: str, why: str) -> None:
    """Warn, once in a process, that operations run in plain PyTorch without kernels, and why."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"scoresde_fast runs in plain PyTorch on the device {device}, which is slower than its own kernels "
            f"(SCORESDE_FAST_BACKEND=reference silences this warning): {why}",
            RuntimeWarning,
            stacklevel=2,
        )


_warned = False

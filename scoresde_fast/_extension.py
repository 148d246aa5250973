# SPDX-License-Identifier: Apache-2.0
"""The C++ extension: loads its operators, or records why they are unavailable."""

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
"""File in which setup.py writes why it built the package without the extension."""
TORCH = (2, 11)
"""Oldest torch with the stable ABI that the extension uses."""


def build_command() -> str:
    """Return the command that builds the extension from the source checkout, the repository or the package index."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.py").is_file():
        source = f"--editable {shlex.quote(str(checkout))}"
    else:
        source = _origin() or "--no-cache-dir --no-binary scoresde-fast scoresde-fast"
    return f"SCORESDE_FAST_EXT=require pip install --force-reinstall --no-deps {source}"


def _origin() -> str | None:
    """Return the repository or folder from which pip installed the package; None if from the index or a wheel."""
    try:
        origin = json.loads(metadata.distribution("scoresde-fast").read_text("direct_url.json") or "null")
    except metadata.PackageNotFoundError:
        return None
    if not origin or origin["url"].endswith(".whl"):
        return None
    if repository := origin.get("vcs_info"):
        return shlex.quote(f"{repository['vcs']}+{origin['url']}@{repository['commit_id']}")
    url = urlparse(origin["url"])
    return shlex.quote(url2pathname(url.path) if url.scheme == "file" else origin["url"])


def _load() -> str | None:
    """Load the extension; return None, or why it is unavailable."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        oldest = ".".join(map(str, TORCH))
        needed = f"{oldest} or newer: pip install --upgrade 'torch>={oldest}'"
        return f"torch {torch.__version__} is too old for the C++ extension, which needs {needed}"
    if find_spec("scoresde_fast._C") is None:
        reason = RECORDED.read_text(encoding="utf-8").strip() if RECORDED.is_file() else "it was never built"
        return f"the C++ extension is missing: {reason}; to build it: {build_command()}"
    try:
        import_module("scoresde_fast._C")
    except (ImportError, OSError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        return (
            f"the C++ extension does not load with torch {torch.__version__}: {cause}; to build it: {build_command()}"
        )
    return None


why_missing: str | None = _load()
"""Why the extension is unavailable and how to build it; None if it is loaded."""


def warn_once(device: str, reason: str) -> None:
    """Warn once per process that operations run in plain PyTorch, and why."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"scoresde_fast runs in plain PyTorch on the device {device}, which is slower than its own kernels "
            f"(SCORESDE_FAST_BACKEND=reference silences this warning): {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


_warned = False

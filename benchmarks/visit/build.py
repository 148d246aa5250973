# SPDX-License-Identifier: Apache-2.0
"""Setup before the first item of a visit to a GPU: the extension, and the cache of kernels compiled ahead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ROOT / "build" / "gpu" / "prepared"
"""Made by `benchmarks.visit.prepare` and carried to the GPU: `ARCHIVE` and `EXTENSION`."""
CACHE = ROOT / "build" / "gpu" / "triton"
"""Triton's cache, in the preparation and in the visit."""
ARCHIVE = PREPARED / "triton.tar.xz"
"""The cache, compressed to an eighth."""
EXTENSION = "_C.abi3.so"
BUILD_SECONDS = 120
"""Limit for building the extension during a visit, which can do without it."""
LOADS = "from scoresde_fast import _extension; print(_extension.why_missing or 'loaded')"


def gpu_name() -> str | None:
    """Return the name of the first GPU from nvidia-smi, or None if there is no GPU."""
    name = _smi("name")
    return name.splitlines()[0].strip() if name else None


def _smi(field: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def ready(rehearse: bool) -> str:
    """Set up the environment for the items; returns a sentence on the extension and the cache.

    An extension that was made ahead is taken if it loads; else one is built for this GPU.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.pop("SCORESDE_FAST_BACKEND", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ["TRITON_CACHE_DIR"] = str(CACHE)
    kernels = adopt_cache()
    return f"{_extension(rehearse)}; {kernels} kernels compiled ahead"


def adopt_cache() -> int:
    """Unpack the cache and make its lists of files name this folder.

    Returns the number of its kernels.  A cache that is there already, which may hold more by now, is left as it is.
    """
    if ARCHIVE.exists() and not CACHE.exists():
        shutil.unpack_archive(ARCHIVE, CACHE)
    lists = list(CACHE.glob("*/__grp__*.json"))
    for path in lists:
        children = json.loads(path.read_text())["child_paths"]
        here = {name: str(path.parent / name) for name in children if (path.parent / name).exists()}
        path.write_text(json.dumps({"child_paths": here}))
    return len(lists)


def count_kernels() -> dict[str, int]:
    """Return running counts of the Triton kernels that this process compiles, and finds in the cache, from now on."""
    import triton

    counts = {"compiled": 0, "found": 0}

    def listener(*, cache_hit: bool, **_: Any) -> None:
        counts["found" if cache_hit else "compiled"] += 1

    triton.knobs.compilation.listener = listener
    return counts


def _extension(rehearse: bool) -> str:
    target = ROOT / "scoresde_fast" / EXTENSION
    if not target.exists() and (PREPARED / EXTENSION).exists():
        shutil.copy2(PREPARED / EXTENSION, target)
    if target.exists():
        loads = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, cwd=ROOT, check=False)
        said = loads.stdout.strip() or loads.stderr.strip()[-300:]
        if said == "loaded":
            return "the extension was made ahead"
        target.unlink()
    if rehearse:
        return "no extension was made ahead"
    capability = (_smi("compute_cap").splitlines() or ["9.0"])[0].strip()
    why = build(target.parent, [capability.replace(".", "")], BUILD_SECONDS)
    return why or "the extension was built here"


def build(folder: Path, architectures: list[str], seconds: float) -> str | None:
    """Build the extension with CUDA into a folder; returns None, or the reason why it failed."""
    import torch

    where = ROOT / "build" / "gpu" / "cmake"
    options = {
        "SSF_TESTS": "OFF",
        "SSF_CUDA": "ON",
        "SSF_TORCH_DIR": Path(torch.__file__).parent,
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder,
        "CMAKE_CUDA_ARCHITECTURES": ";".join(f"{architecture}-real" for architecture in architectures),
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    configure = ["cmake", "-S", str(ROOT), "-B", str(where), "-GNinja", *arguments]
    for command in (configure, ["cmake", "--build", str(where), "--target", "_C"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the extension was not built: {error}"
        if done.returncode:
            return "the extension was not built: " + (done.stderr or done.stdout).strip()[-300:]
    return None

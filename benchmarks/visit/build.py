# SPDX-License-Identifier: Apache-2.0
"""Setup of a GPU visit: the extension and the cache of precompiled kernels."""

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
"""Folder with `ARCHIVE` and `EXTENSION`, made by `benchmarks.visit.prepare` and copied to the GPU machine."""
CACHE = ROOT / "build" / "gpu" / "triton"
"""Triton's cache folder, in the preparation and in the visit."""
ARCHIVE = PREPARED / "triton.tar.xz"
"""The cache, compressed to 1/8 of its size."""
EXTENSION = "_C.abi3.so"
BUILD_SECONDS = 120
"""Time limit for building the extension during a visit; the visit also works without it."""
LOAD = "from scoresde_fast import _extension; print(_extension.why_missing or 'loaded')"


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
    """Set up the environment for the items and return a sentence on the extension and the cache.

    A prebuilt extension is used if it loads; otherwise one is built for this GPU.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.pop("SCORESDE_FAST_BACKEND", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ["TRITON_CACHE_DIR"] = str(CACHE)
    kernels = adopt_cache()
    return f"{_extension(rehearse)}; {kernels} precompiled kernels"


def adopt_cache() -> int:
    """Unpack the cache, adapt its absolute paths to this machine, and return its number of kernels.

    An existing cache is not replaced: it may contain kernels that were compiled later.
    """
    if ARCHIVE.exists() and not CACHE.exists():
        shutil.unpack_archive(ARCHIVE, CACHE)
    lists = list(CACHE.glob("*/__grp__*.json"))
    for path in lists:
        children = json.loads(path.read_text())["child_paths"]
        existing = {name: str(path.parent / name) for name in children if (path.parent / name).exists()}
        path.write_text(json.dumps({"child_paths": existing}))
    return len(lists)


def count_kernels() -> dict[str, int]:
    """Start counting the Triton kernels that this process compiles or finds in the cache, and return the counts."""
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
        loaded = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, cwd=ROOT, check=False)
        if loaded.stdout.strip() == "loaded":
            return "prebuilt extension"
        target.unlink()
    if rehearse:
        return "no prebuilt extension"
    capability = (_smi("compute_cap").splitlines() or ["9.0"])[0].strip()
    failure = build(target.parent, [capability.replace(".", "")], BUILD_SECONDS)
    return failure or "extension built during the visit"


def build(folder: Path, architectures: list[str], seconds: float) -> str | None:
    """Build the extension with CUDA into a folder; return None, or why the build failed."""
    import torch

    build_folder = ROOT / "build" / "gpu" / "cmake"
    options = {
        "SSF_TESTS": "OFF",
        "SSF_CUDA": "ON",
        "SSF_TORCH_DIR": Path(torch.__file__).parent,
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder,
        "CMAKE_CUDA_ARCHITECTURES": ";".join(f"{architecture}-real" for architecture in architectures),
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    configure = ["cmake", "-S", str(ROOT), "-B", str(build_folder), "-GNinja", *arguments]
    for command in (configure, ["cmake", "--build", str(build_folder), "--target", "_C"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the extension was not built: {error}"
        if done.returncode:
            return "the extension was not built: " + (done.stderr or done.stdout).strip()[-300:]
    return None

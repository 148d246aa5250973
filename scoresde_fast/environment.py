# SPDX-License-Identifier: Apache-2.0
"""The environment of a run: versions, devices, the backends of each operation, and why others are unavailable."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import textwrap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from scoresde_fast import __version__
from scoresde_fast.devices import why_no_cuda
from scoresde_fast.ops import operations

LIBRARIES = (
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "huggingface-hub",
    "lazy_loader",
    "pillow",
    "filelock",
    "tqdm",
    "tyro",
)
"""Required libraries."""
OPTIONAL = (
    "scikit-learn",
    "scipy",
    "torch-fidelity",
    "torchvision",
    "diffusers",
    "matplotlib",
    "jinja2",
    "tensorboard",
)
WIDTH = 100
"""Maximum length of a line of the report."""


@dataclass(frozen=True)
class Environment:
    """Environment information for bug reports; format it with ``str``.

    Attributes:
        versions: versions of this package, Python and the libraries, or "not installed".
        platform: operating system and processor architecture.
        devices: available PyTorch devices and their descriptions.
        backends: available backends of each operation, fastest first; "reference" is plain PyTorch.
        unavailable: for each other backend, the reasons why operations cannot use it.
    """

    versions: dict[str, str]
    platform: str
    devices: dict[str, str]
    backends: dict[str, list[str]]
    unavailable: dict[str, list[str]]

    def __str__(self) -> str:
        sections = {
            "versions": self.versions,
            "devices": {"platform": self.platform, **self.devices},
            "backends of each operation": _group_operations(self.backends),
            "unavailable backends": _group_backends(self.unavailable),
        }
        lines: list[str] = []
        for title, rows in sections.items():
            if rows:
                width = max(map(len, rows))
                lines += [title, *(f"  {key:<{width}} {value}" for key, value in rows.items())]
        return "\n".join(lines)


def _group_backends(unavailable: dict[str, list[str]]) -> dict[str, str]:
    """Group backends by the reasons that they share: {"triton, cuda": "reason; reason"}."""
    backends: dict[str, list[str]] = {}
    for name, reasons in unavailable.items():
        for reason in reasons:
            backends.setdefault(reason, []).append(name)
    return {names: "; ".join(reasons) for names, reasons in _group_keys(backends).items()}


def _group_operations(backends: dict[str, list[str]]) -> dict[str, str]:
    """Group operations by their backends: {"triton, reference": "operation, operation"}, wrapped to `WIDTH`."""
    groups = _group_keys(backends)
    indent = " " * (max(map(len, groups)) + 3)
    return {
        names: textwrap.fill(
            ", ".join(sorted(operation_names)), WIDTH, initial_indent=indent, subsequent_indent=indent
        ).strip()
        for names, operation_names in groups.items()
    }


def _group_keys(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    """Group the keys that have equal lists: {"item, item": [key, key]}."""
    keys: dict[str, list[str]] = {}
    for key, values in lists.items():
        keys.setdefault(", ".join(values), []).append(key)
    return keys


def environment() -> Environment:
    """Return the environment of this process."""
    backends: dict[str, list[str]] = {}
    unavailable: dict[str, list[str]] = {}
    for operation in operations.values():
        available = backends[operation.name] = []
        for name, backend in operation.backends.items():
            needs_gpu = "cpu" not in backend.devices + backend.on_request
            reason = backend.missing or (why_no_cuda() if needs_gpu else None)
            if reason is None:
                available.append(name)
            elif reason not in unavailable.setdefault(name, []):
                unavailable[name].append(reason)
        available.append("reference")
    return Environment(
        versions=versions(*LIBRARIES, *OPTIONAL),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        devices=_devices(),
        backends=backends,
        unavailable=unavailable,
    )


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of this package, Python and the libraries, or "not installed"."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"scoresde-fast": __version__, "python": python, **{name: _version(name) for name in libraries}}


def command_line() -> str:
    """Return the command line of this process, with the path of the program shortened to its last folder."""
    program = Path(sys.argv[0])
    name = ["python", f"{program.parent.name}/{program.name}"] if program.suffix == ".py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"}
    if why_no_cuda():
        return devices | {"cuda": "unavailable, see below"}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        size = f"{gpu.total_memory / 2**30:.0f} GiB"
        devices[f"cuda:{index}"] = f"{gpu.name}, {size}, sm_{gpu.major}{gpu.minor}, CUDA {torch.version.cuda}"
    return devices

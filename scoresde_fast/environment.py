# SPDX-License-Identifier: Apache-2.0
"""What a run depends on here: versions, devices, the backends of each operation, and why others are absent."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import textwrap
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from scoresde_fast import __version__
from scoresde_fast.devices import why_no_cuda
from scoresde_fast.ops import operations

LIBRARIES = ("torch", "triton", "numpy", "safetensors", "huggingface-hub", "pillow", "filelock", "tqdm", "tyro")
"""What the package needs."""
WIDTH = 100
"""Characters of a line."""
OPTIONAL = ("scikit-learn", "scipy", "torch-fidelity", "torchvision", "matplotlib", "jinja2", "tensorboard")


@dataclass(frozen=True)
class Environment:
    """``str`` of it is the report; ``as_dict`` the same for JSON.

    Attributes:
        versions: of this package, Python and the libraries; "absent" where one is not installed.
        platform: the operating system and the processor's architecture.
        devices: what tensors can live on, in words.
        backends: for each operation the backends that run on a device of this machine, the fastest first; "reference"
            is plain PyTorch.
        absent: for each backend that some operation lacks here, why.
    """

    versions: dict[str, str]
    platform: str
    devices: dict[str, str]
    backends: dict[str, list[str]]
    absent: dict[str, list[str]]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain dicts and strings."""
        return asdict(self)

    def __str__(self) -> str:
        sections = {
            "versions": self.versions,
            "devices": {"platform": self.platform, **self.devices},
            "backends of each operation": _sharing(self.backends),
            "absent backends": _together(self.absent),
        }
        return "\n".join(
            line
            for title, rows in sections.items()
            if rows
            for line in (title, *(f"  {key:<{max(map(len, rows))}} {value}" for key, value in rows.items()))
        )


def _together(absent: dict[str, list[str]]) -> dict[str, str]:
    """The reasons, each once, by the names of the backends that share them."""
    names: dict[str, list[str]] = {}
    for name, reasons in absent.items():
        for reason in reasons:
            names.setdefault(reason, []).append(name)
    return {sharing: "; ".join(reasons) for sharing, reasons in _keys_by_values(names).items()}


def _keys_by_values(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    """The keys that have the same list, by that list in one string."""
    keys: dict[str, list[str]] = {}
    for key, values in lists.items():
        keys.setdefault(", ".join(values), []).append(key)
    return keys


def _sharing(backends: dict[str, list[str]]) -> dict[str, str]:
    """The operations that have the same backends, in one row."""
    rows = _keys_by_values(backends)
    indent = " " * (max(map(len, rows)) + 3)
    return {
        present: textwrap.fill(
            ", ".join(sorted(sharing)), WIDTH, initial_indent=indent, subsequent_indent=indent
        ).strip()
        for present, sharing in rows.items()
    }


def environment() -> Environment:
    """The environment of this process."""
    backends, absent = dict[str, list[str]](), dict[str, list[str]]()
    for operation in operations.values():
        present = backends[operation.name] = []
        for name, backend in operation.backends.items():
            why = backend.missing or (why_no_cuda() if "cpu" not in backend.devices + backend.on_request else None)
            if why is None:
                present.append(name)
            elif why not in absent.setdefault(name, []):
                absent[name].append(why)
        present.append("reference")
    return Environment(
        versions=versions(*LIBRARIES, *OPTIONAL),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        devices=_devices(),
        backends=backends,
        absent=absent,
    )


def versions(*libraries: str) -> dict[str, str]:
    """Versions of this package, Python and the libraries; "absent" where one is not installed."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"scoresde-fast": __version__, "python": python, **{name: _version(name) for name in libraries}}


def command_line() -> str:
    """The command that this process was started by, without the paths of this machine."""
    program = Path(sys.argv[0])
    name = ["python", f"{program.parent.name}/{program.name}"] if program.suffix == ".py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"


def _devices() -> dict[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"}
    if why_no_cuda():
        return devices | {"cuda": "absent, see below"}
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        size = f"{found.total_memory / 2**30:.0f} GiB"
        devices[f"cuda:{index}"] = f"{found.name}, {size}, sm_{found.major}{found.minor}, CUDA {torch.version.cuda}"
    return devices

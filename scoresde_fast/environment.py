# SPDX-License-Identifier: Apache-2.0
"""The environment of a run: versions, devices, the backends of each operation, and why others are absent."""

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
"""Libraries that the package needs."""
OPTIONAL = ("scikit-learn", "scipy", "torch-fidelity", "torchvision", "matplotlib", "jinja2", "tensorboard")
WIDTH = 100
"""Characters in a line of the report."""


@dataclass(frozen=True)
class Environment:
    """A report for bug reports; ``str`` makes it text.

    Attributes:
        versions: of this package, Python and the libraries; "absent" if not installed.
        platform: operating system and processor architecture.
        devices: descriptions of the devices for tensors.
        backends: of each operation, those that run on a device of this machine, fastest first; "reference" is plain
            PyTorch.
        absent: reasons for each backend that an operation lacks.
    """

    versions: dict[str, str]
    platform: str
    devices: dict[str, str]
    backends: dict[str, list[str]]
    absent: dict[str, list[str]]

    def __str__(self) -> str:
        sections = {
            "versions": self.versions,
            "devices": {"platform": self.platform, **self.devices},
            "backends of each operation": _by_backends(self.backends),
            "absent backends": _by_reason(self.absent),
        }
        return "\n".join(
            line
            for title, rows in sections.items()
            if rows
            for line in (title, *(f"  {key:<{max(map(len, rows))}} {value}" for key, value in rows.items()))
        )


def _by_reason(absent: dict[str, list[str]]) -> dict[str, str]:
    """Return each reason once, by the names of the backends that share it."""
    names: dict[str, list[str]] = {}
    for name, reasons in absent.items():
        for reason in reasons:
            names.setdefault(reason, []).append(name)
    return {sharing: "; ".join(reasons) for sharing, reasons in _keys_by_values(names).items()}


def _keys_by_values(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the keys with the same list, by that list as one string."""
    keys: dict[str, list[str]] = {}
    for key, values in lists.items():
        keys.setdefault(", ".join(values), []).append(key)
    return keys


def _by_backends(backends: dict[str, list[str]]) -> dict[str, str]:
    """Return the operations by their list of backends, wrapped to `WIDTH`."""
    rows = _keys_by_values(backends)
    indent = " " * (max(map(len, rows)) + 3)
    return {
        present: textwrap.fill(
            ", ".join(sorted(sharing)), WIDTH, initial_indent=indent, subsequent_indent=indent
        ).strip()
        for present, sharing in rows.items()
    }


def environment() -> Environment:
    """Return the environment of this process."""
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
    """Return the versions of this package, Python and the libraries; "absent" if not installed."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"scoresde-fast": __version__, "python": python, **{name: _version(name) for name in libraries}}


def command_line() -> str:
    """Return the command line of this process, without the machine's paths."""
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

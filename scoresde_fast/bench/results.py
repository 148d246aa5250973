# SPDX-License-Identifier: Apache-2.0
"""Results of both benchmarks: dataclasses, their JSON, and the machine on which they were measured."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch

from scoresde_fast.bench.candidates import Case
from scoresde_fast.bench.ranking import MeasuredCase, Ranking
from scoresde_fast.environment import command_line, versions
from scoresde_fast.files import make_folder, write_json

JSON_KEYS = {"ranking": "verdict", "probability_flow": "flow"}
"""JSON keys that differ from the fields' names, because older results have them."""
IF_ANY = ("settings", "progress")
"""JSON keys that are written only with a value; older results lack them."""
FIELD_NAMES = {key: name for name, key in JSON_KEYS.items()}
SMI_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu")


@dataclass
class Share:
    """The operations of one kind at one resolution in one network evaluation of a batch.

    Attributes:
        kind: "convolution", "resampling", "matrix product", "norm" or "pointwise".
        resolution: width of the output; 0 for outputs that are not images.
        gflop, gbyte: 10^9 operations and bytes.
    """

    kind: str
    resolution: int
    gflop: float = 0.0
    gbyte: float = 0.0


@dataclass(frozen=True)
class LeftOutVariant:
    """A variant that was not measured; ``left_out`` is the reason."""

    name: str
    what: str
    ours: bool
    left_out: str


@dataclass(frozen=True)
class MeasuredVariant:
    """A variant and its measurements.

    Attributes:
        name, what, ours: as of `Variant`.
        images_per_second: median over whole sampling runs.
        ms_per_nfe, ms_per_nfe_quartiles: milliseconds per network evaluation of the batch: median, and lower and upper
            quartile.
        readings: number of timed runs.
        seconds_to_first_images: seconds of the preparation and the first run.
        tflops: 10^12 operations a second, counting the operations of the plain network.
        peak_memory_mib: peak GPU memory in MiB; None on a CPU.
        psnr_db, max_error: PSNR and largest error against the images of the first variant; None and 0 if identical.
        stated_db, within_stated: minimum PSNR that the variant promises, and whether it is reached.
        against_first: speed as a multiple of the first variant's.
        share_of_matmul_peak: ``tflops`` divided by the device's peak matmul rate; None until the network is done.
    """

    name: str
    what: str
    ours: bool
    images_per_second: float
    ms_per_nfe: float
    ms_per_nfe_quartiles: tuple[float, float]
    readings: int
    seconds_to_first_images: float
    tflops: float
    peak_memory_mib: float | None
    psnr_db: float | None
    max_error: float
    stated_db: float
    within_stated: bool
    against_first: float = 1.0
    share_of_matmul_peak: float | None = None


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network and the speed of each variant.

    Attributes:
        name: name of an embedded model or a preset.
        weights: "embedded", "own" (a model in Python) or "random".
        parameters: number of parameters.
        gflop_per_image: 10^9 operations of one network evaluation of an image.
        batch, nfe: images a run, and network evaluations an image.
        solver: options of the sampler.
        operations: operations of one network evaluation of the batch, by kind.
        lines: the variants; the first is the baseline of the others.
    """

    name: str
    weights: str
    parameters: int
    gflop_per_image: float
    batch: int
    nfe: int
    solver: dict[str, Any]
    operations: list[Share]
    lines: list[MeasuredVariant | LeftOutVariant]

    @property
    def measured(self) -> list[MeasuredVariant]:
        """The variants that were measured."""
        return [line for line in self.lines if isinstance(line, MeasuredVariant)]

    def fastest(self, *, ours: bool) -> MeasuredVariant | None:
        """Return the fastest of our variants, or of the others, among those within their stated error."""
        accurate = [line for line in self.measured if line.ours == ours and line.within_stated]
        return max(accurate, key=lambda line: line.images_per_second, default=None)


@dataclass(frozen=True)
class BatchPoint:
    """Speed of a variant at one batch size."""

    batch: int
    ms_per_nfe: float
    images_per_second: float


@dataclass(frozen=True)
class BatchLine:
    """Speed of one variant against the batch size."""

    name: str
    ours: bool
    points: list[BatchPoint]


@dataclass(frozen=True)
class BatchSeries:
    """Speed of several variants on one network against the batch size."""

    name: str
    nfe: int
    lines: list[BatchLine]


@dataclass(frozen=True)
class BenchResult:
    """The result of the sampling benchmark, with the command, the device and the versions."""

    title: str
    command: str
    date: str
    seconds: float
    device: dict[str, Any]
    ceilings: dict[str, Any]
    notes: list[str]
    networks: list[MeasuredNetwork]
    batches: list[BatchSeries]


@dataclass(frozen=True, kw_only=True)
class UnmeasuredCase(Case):
    """A case that cannot run or did not fit into the time limit, and the reason; ``nfe`` is None if unknown."""

    nfe: float | None = None
    reason: str


@dataclass(frozen=True)
class Strip:
    """A row of images as a base64 PNG."""

    title: str
    png: str


@dataclass(kw_only=True)
class Comparison:
    """The comparison of solvers on one model.

    Attributes:
        settings: what else identifies the model, its inputs, the reference and the extractor, as JSON values.
        samples: number of samples of each case.
        machine: name of the device.
        timed_on: device, threads and batch size of the times; None if nothing is timed.
        measure, floor, floor_name, chance: as of `Measure`; ``measure`` is its name.
        flow_gap: error of the converged flow itself; None if it was not computed.
        own: names of the user's solvers.
        lines: the measured cases.
        skipped, left_out: the cases that cannot run, and those that did not fit into the time limit.
        ranking: ranking of the measured cases.
        pictures: the first images of the data and of the best cases.
        progress: the candidates that are done and the time left; empty when the comparison is finished.
    """

    title: str
    model: str
    weights_sha256: str
    settings: dict[str, Any] = field(default_factory=dict)
    samples: int
    machine: str
    timed_on: dict[str, Any] | None = None
    sde: str
    measure: str
    floor: float | None
    floor_name: str
    chance: float
    flow_gap: float | None
    own: list[str]
    command: str
    date: str
    device: dict[str, Any]
    notes: list[str]
    lines: list[MeasuredCase] = field(default_factory=list)
    skipped: list[UnmeasuredCase] = field(default_factory=list)
    left_out: list[UnmeasuredCase] = field(default_factory=list)
    ranking: Ranking = field(default_factory=lambda: Ranking([], [], {}, []))
    pictures: list[Strip] = field(default_factory=list)
    progress: str = ""


AnyResult = TypeVar("AnyResult", bound="BenchResult | Comparison")


def write_result(result: BenchResult | Comparison, path: Path) -> None:
    """Write a result as JSON; infinite values become null."""
    values = asdict(result, dict_factory=_json_object)
    write_rounded({name: value for name, value in values.items() if value or name not in IF_ANY}, path)


def read_result(kind: type[AnyResult], path: Path) -> AnyResult:
    """Return the result that `write_result` has written.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: the file contains something else.
    """
    return _from_json(kind, json.loads(path.read_text()))


def write_rounded(result: dict[str, Any], path: Path) -> None:
    """Write a result with floats rounded to five significant digits; create its folder."""
    make_folder(path.parent)
    write_json(path, rounded(result), indent=1)


def rounded(value: Any, digits: int = 5) -> Any:
    """Return the value with all floats in it rounded to ``digits`` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _json_object(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {JSON_KEYS.get(name, name): None if value == math.inf else value for name, value in fields}


_field_types: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _from_json(kind: Any, value: Any) -> Any:
    """Return a JSON value as ``kind``: a dataclass, a list or union of dataclasses, or a type of JSON."""
    if isinstance(value, list):
        return [_from_json(get_args(kind)[0], item) for item in value]
    if isinstance(value, dict):
        for member in get_args(kind):
            if is_dataclass(member) and value.keys() <= _field_types(member).keys():
                kind = member
    if isinstance(kind, type) and is_dataclass(kind):
        fields = {FIELD_NAMES.get(key, key): item for key, item in value.items()}
        return kind(**{name: _from_json(_field_types(kind)[name], item) for name, item in fields.items()})
    return math.inf if kind is float and value is None else value


def error_sentence(error: Exception) -> str:
    """Return an error's message on one line, with its type unless it is a ValueError or an ArithmeticError."""
    message = " ".join(str(error).split())[:300]
    return message if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {message}"


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Return the entries of every result: command, date, machine with versions, and the type of ``device``."""
    used = {} if device is None else {"type": device.type}
    return {"command": command_line(), "date": date.today().isoformat(), "device": {**used, **device_info()}}


def device_info() -> dict[str, Any]:
    """Return the CPU, the versions, and, if there is a GPU, the name and the current clocks of GPU 0."""
    libraries: dict[str, Any] = versions("torch", "triton")
    info: dict[str, Any] = {
        "cpu": cpu_name(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": libraries,
    }
    if torch.cuda.is_available():
        libraries |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        gpu = torch.cuda.get_device_properties(0)
        info |= {"gpu": gpu.name, "multiprocessors": gpu.multi_processor_count, "nvidia-smi": _smi()}
    return info


def device_name(device: torch.device, *, with_threads: bool = True) -> str:
    """Return the device's name for a title; a CPU's with the instruction set and, by default, the threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).name
    threads = torch.get_num_threads()
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return ", ".join([cpu_name(), *([count] if with_threads else []), torch.backends.cpu.get_cpu_capability()])


def cpu_name() -> str:
    """Return the processor's name, or its architecture if the system does not give a name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _smi() -> dict[str, str] | str:
    """Return `SMI_FIELDS` of GPU 0, or why they are unavailable."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"unavailable: {error}"
    return dict(zip(SMI_FIELDS, output.strip().split(", "), strict=False))

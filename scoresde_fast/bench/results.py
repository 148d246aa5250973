# SPDX-License-Identifier: Apache-2.0
"""Results of both benchmarks: dataclasses, and their JSON. Field names are JSON keys, except those in `JSON_KEYS`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scoresde_fast.bench.candidates import Case
from scoresde_fast.bench.ranking import Best, MeasuredCase, Ranking
from scoresde_fast.files import make_folder, replacing

JSON_KEYS = {"ranking": "verdict", "probability_flow": "flow"}
"""Keys that differ from the fields' names, because older results have them."""
JSON_FIELDS = {key: name for name, key in JSON_KEYS.items()}


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write a result with floats rounded to five significant digits; create its folder."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write((json.dumps(rounded(result), indent=1) + "\n").encode())


def rounded(value: Any, digits: int = 5) -> Any:
    """Return the value with all floats in it rounded to ``digits`` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def error_sentence(error: Exception) -> str:
    """Return an error's message on one line, with its type unless it is a ValueError or an ArithmeticError."""
    message = " ".join(str(error).split())[:300]
    return message if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {message}"


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
        peak_memory_mib: peak GPU memory; None on a CPU.
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
        weights: "embedded" or "random".
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

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        write_json(asdict(self), path)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BenchResult:
        """Return the result that `write` has written."""
        networks = []
        for network in values["networks"]:
            shares = [Share(**share) for share in network["operations"]]
            lines = [(LeftOutVariant if "left_out" in line else MeasuredVariant)(**line) for line in network["lines"]]
            networks.append(MeasuredNetwork(**{**network, "operations": shares, "lines": lines}))
        batches = []
        for series in values["batches"]:
            curves = [
                BatchLine(**{**line, "points": [BatchPoint(**point) for point in line["points"]]})
                for line in series["lines"]
            ]
            batches.append(BatchSeries(**{**series, "lines": curves}))
        return cls(**{**values, "networks": networks, "batches": batches})


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
    """

    title: str
    model: str
    weights_sha256: str
    samples: int
    machine: str
    timed_on: dict[str, Any] | None = None
    sde: str
    measure: str
    floor: float
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

    def write(self, path: Path) -> None:
        """Write the result as JSON; infinite values become null."""
        values = asdict(self, dict_factory=_json_keys)
        for line in values["lines"]:
            line.update({key: None for key, value in line.items() if value == math.inf})
        write_json(values, path)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Return the result that `write` has written."""
        values = _field_names(values)
        ranking = dict(values["ranking"])
        for limits in ("by_nfe", "by_seconds"):
            ranking[limits] = [Best(**best) for best in ranking[limits]]
        measured = [{key: value for key, value in line.items() if value is not None} for line in values["lines"]]
        typed = {
            "lines": [MeasuredCase(**_field_names(line)) for line in measured],
            "skipped": [UnmeasuredCase(**_field_names(case)) for case in values["skipped"]],
            "left_out": [UnmeasuredCase(**_field_names(case)) for case in values["left_out"]],
            "ranking": Ranking(**ranking),
            "pictures": [Strip(**picture) for picture in values["pictures"]],
        }
        return cls(**{**values, **typed})


def _json_keys(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {JSON_KEYS.get(name, name): value for name, value in items}


def _field_names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {JSON_FIELDS.get(key, key): value for key, value in values.items()}

# SPDX-License-Identifier: Apache-2.0
"""Results of both benchmarks: dataclasses in the process, JSON on the disk. A field's name is its key in the JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scoresde_fast.bench.candidates import Case
from scoresde_fast.bench.ranking import Best, MeasuredCase, Ranking
from scoresde_fast.files import make_folder, replacing


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write a result with floats rounded to five digits; make its folder."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write((json.dumps(rounded(result), indent=1) + "\n").encode())


def rounded(value: Any, digits: int = 5) -> Any:
    """Round floats, also inside dictionaries and lists, to ``digits`` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def error_sentence(error: Exception) -> str:
    """Return an error's message on one line, with its type unless the message is written for the user."""
    message = " ".join(str(error).split())[:300]
    return message if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {message}"


@dataclass
class Share:
    """All operations of one kind at one resolution in one evaluation of a batch.

    Attributes:
        kind: "convolution", "resampling", "matrix product", "norm" or "pointwise".
        resolution: height of the output; 0 for the matrix products of attention and the time embedding.
        gflop, gbyte: 10^9 operations and bytes.
    """

    kind: str
    resolution: int
    gflop: float = 0.0
    gbyte: float = 0.0


@dataclass(frozen=True)
class LeftOutVariant:
    """A variant that was not measured, and the reason."""

    name: str
    what: str
    ours: bool
    left_out: str


@dataclass(frozen=True)
class MeasuredVariant:
    """A variant and its figures.

    Attributes:
        images_per_second: of whole sampling runs; the median.
        ms_per_nfe, ms_per_nfe_quartiles: milliseconds of a network evaluation of the batch.
        readings: the number of timed runs.
        seconds_to_first_images: preparation and the first run.
        tflops: 10^12 operations of the plain network a second.
        peak_memory_mib: on a GPU; None on a CPU.
        psnr_db, max_error: of the images against the first variant's; None and 0 where they are equal.
        stated_db, within_stated: the least PSNR that the variant states, and whether it is reached.
        against_first: the speed as a multiple of the first variant's.
        share_of_matmul_peak: ``tflops`` over the fastest matrix product; None until the run ends.
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
        name: of an embedded model or a preset.
        weights: "embedded" or "random".
        parameters: their number.
        gflop_per_image: 10^9 operations of an evaluation.
        batch, nfe: images of a run, and network evaluations of each.
        solver: the sampler's options.
        operations: of an evaluation, by kind.
        lines: the variants; the others are compared with the first.
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
        """Return the fastest of our variants, or of the others, among those that reach their stated error."""
        fitting = [line for line in self.measured if line.ours == ours and line.within_stated]
        return max(fitting, key=lambda line: line.images_per_second, default=None)


@dataclass(frozen=True)
class BatchPoint:
    """The speed of a variant at one batch size."""

    batch: int
    ms_per_nfe: float
    images_per_second: float


@dataclass(frozen=True)
class BatchLine:
    """The speed of one variant against the batch size."""

    name: str
    ours: bool
    points: list[BatchPoint]


@dataclass(frozen=True)
class BatchSeries:
    """The speed of several variants on one network against the batch size."""

    name: str
    nfe: int
    lines: list[BatchLine]


@dataclass(frozen=True)
class BenchResult:
    """The benchmark of sampling: its figures, its machine, command and versions."""

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
    def from_json(cls, kept: Mapping[str, Any]) -> BenchResult:
        """Return the result that `write` has written."""
        networks = []
        for network in kept["networks"]:
            shares = [Share(**share) for share in network["operations"]]
            lines = [(LeftOutVariant if "left_out" in line else MeasuredVariant)(**line) for line in network["lines"]]
            networks.append(MeasuredNetwork(**{**network, "operations": shares, "lines": lines}))
        batches = []
        for series in kept["batches"]:
            points = [[BatchPoint(**point) for point in line["points"]] for line in series["lines"]]
            curves = [BatchLine(**{**line, "points": own}) for line, own in zip(series["lines"], points, strict=True)]
            batches.append(BatchSeries(**{**series, "lines": curves}))
        return cls(**{**kept, "networks": networks, "batches": batches})


@dataclass(frozen=True, kw_only=True)
class UnmeasuredCase(Case):
    """A case that cannot run or did not fit into the time, the reason, and ``nfe`` where it is known."""

    nfe: float | None = None
    reason: str


@dataclass(frozen=True)
class Strip:
    """Images side by side, as PNG in base64."""

    title: str
    png: str


@dataclass(kw_only=True)
class Comparison:
    """The comparison of solvers on one model.

    Attributes:
        samples: of every case.
        machine: the device's name.
        timed_on: device, threads and batch size of the times; None where nothing is timed.
        measure, floor, floor_name, chance: as of `Measure`.
        flow_gap: the error of the converged flow itself; None where it was not computed.
        own: names of the user's solvers.
        lines: the measured cases.
        skipped, left_out: the cases that cannot run, and those that did not fit into the time.
        ranking: of the measured cases; its key is "verdict".
        pictures: the first images of the best cases.
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
        """Write the result as JSON, with null where nothing was measured."""
        kept = asdict(self)
        kept["verdict"] = kept.pop("ranking")
        for line in kept["lines"]:
            line.update({key: None for key, value in line.items() if value == math.inf})
        write_json(kept, path)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Comparison:
        """Return the result that `write` has written."""
        ranking = dict(kept["verdict"])
        for limits in ("by_nfe", "by_seconds"):
            ranking[limits] = [Best(**best) for best in ranking[limits]]
        measured = [{key: value for key, value in line.items() if value is not None} for line in kept["lines"]]
        typed = {
            "lines": [MeasuredCase(**line) for line in measured],
            "skipped": [UnmeasuredCase(**case) for case in kept["skipped"]],
            "left_out": [UnmeasuredCase(**case) for case in kept["left_out"]],
            "ranking": Ranking(**ranking),
            "pictures": [Strip(**picture) for picture in kept["pictures"]],
        }
        return cls(**{key: value for key, value in kept.items() if key != "verdict"} | typed)

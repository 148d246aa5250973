# SPDX-License-Identifier: Apache-2.0
"""The result of a sampling benchmark, as dataclasses in the process and as JSON on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from scoresde_fast.bench.operations import Share
from scoresde_fast.bench.rounding import write_json


@dataclass(frozen=True)
class Figures:
    """What was measured of a variant.

    Attributes:
        images_per_second: of whole sampling runs; the median.
        ms_per_nfe, ms_per_nfe_quartiles: milliseconds a network evaluation of the batch.
        readings: timed runs.
        seconds_to_first_images: making ready and the first run.
        tflops: 10^12 operations a second, of the plain network's.
        share_of_matmul_peak: of them, to the fastest matrix product; None until all is measured.
        peak_memory_mib: on a GPU; else None.
        psnr_db, max_error: of the images against the first variant's; None where they are equal.
        stated_db, within_stated: the least PSNR that is stated, and whether it is met.
        against_first: how many times as fast as the first variant.
    """

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
class MeasuredVariant:
    """A variant and its figures, or why it is left out."""

    name: str
    what: str
    ours: bool
    figures: Figures | None
    left_out: str | None = None

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        found = {"left_out": self.left_out} if self.figures is None else asdict(self.figures)
        return {"name": self.name, "what": self.what, "ours": self.ours, **found}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> MeasuredVariant:
        """From `as_json`."""
        figures = None
        if "left_out" not in kept:
            figures = Figures(**{field.name: kept[field.name] for field in fields(Figures)})
        return cls(kept["name"], kept["what"], kept["ours"], figures, kept.get("left_out"))


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network's waterfall.

    Attributes:
        name: of an embedded model or a preset.
        weights: "embedded" or "random".
        parameters: how many.
        gflop_per_image: 10^9 operations of an evaluation.
        batch, nfe: images a run, and network evaluations of each.
        solver: the sampler's options.
        operations: what an evaluation consists of.
        variants: the first is what the others are compared with.
    """

    name: str
    weights: str
    parameters: int
    gflop_per_image: float
    batch: int
    nfe: int
    solver: dict[str, Any]
    operations: list[Share]
    variants: list[MeasuredVariant]

    @property
    def measured(self) -> list[tuple[MeasuredVariant, Figures]]:
        """The variants that were not left out."""
        return [(variant, variant.figures) for variant in self.variants if variant.figures is not None]

    def fastest(self, *, ours: bool) -> tuple[MeasuredVariant, Figures] | None:
        """The fastest of ours or of the others, among those that meet the error that they state."""
        fitting = [pair for pair in self.measured if pair[0].ours == ours and pair[1].within_stated]
        return max(fitting, key=lambda pair: pair[1].images_per_second, default=None)

    def with_shares(self, matmul_tflops: float) -> MeasuredNetwork:
        """The same with every variant's share of the peak."""
        variants = [
            variant
            if (found := variant.figures) is None
            else replace(variant, figures=replace(found, share_of_matmul_peak=found.tflops / matmul_tflops))
            for variant in self.variants
        ]
        return replace(self, variants=variants)

    def as_json(self) -> dict[str, Any]:
        """With the variants under "lines"."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        operations = [asdict(share) for share in kept.pop("operations")]
        return kept | {"operations": operations, "lines": [variant.as_json() for variant in kept.pop("variants")]}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> MeasuredNetwork:
        """From `as_json`."""
        plain = {name: value for name, value in kept.items() if name not in ("operations", "lines")}
        shares = [Share(**share) for share in kept["operations"]]
        return cls(**plain, operations=shares, variants=[MeasuredVariant.of(line) for line in kept["lines"]])


@dataclass(frozen=True)
class BatchPoint:
    """A variant at one batch size."""

    batch: int
    ms_per_nfe: float
    images_per_second: float


@dataclass(frozen=True)
class BatchSeries:
    """Variants of one network against the batch size: ``points`` of each by name, and which are ``ours``."""

    name: str
    nfe: int
    points: dict[str, list[BatchPoint]]
    ours: dict[str, bool]

    def as_json(self) -> dict[str, Any]:
        """With the variants under "lines"."""
        lines = [
            {"name": name, "ours": self.ours[name], "points": [asdict(point) for point in points]}
            for name, points in self.points.items()
        ]
        return {"name": self.name, "nfe": self.nfe, "lines": lines}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> BatchSeries:
        """From `as_json`."""
        points = {line["name"]: [BatchPoint(**point) for point in line["points"]] for line in kept["lines"]}
        return cls(kept["name"], kept["nfe"], points, {line["name"]: line["ours"] for line in kept["lines"]})


@dataclass(frozen=True)
class BenchResult:
    """A whole benchmark: what was measured, on what, by which command, with which versions."""

    title: str
    command: str
    date: str
    seconds: float
    device: dict[str, Any]
    ceilings: dict[str, Any]
    notes: list[str]
    networks: list[MeasuredNetwork]
    batches: list[BatchSeries]

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return kept | {name: [found.as_json() for found in kept[name]] for name in ("networks", "batches")}

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(self.as_json(), path)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> BenchResult:
        """From `as_json`."""
        networks = [MeasuredNetwork.of(network) for network in kept["networks"]]
        return cls(**{**kept, "networks": networks, "batches": [BatchSeries.of(one) for one in kept["batches"]]})

# SPDX-License-Identifier: Apache-2.0
"""Likelihoods of a data set, one JSON line an image, written batch by batch and resumed after any interruption."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.files import make_folder
from scoresde_fast.fingerprint import data_sha256
from scoresde_fast.flow.likelihood import Likelihood, LikelihoodEstimator
from scoresde_fast.generate.manifest import Manifest, environment
from scoresde_fast.generate.seed_set import SeedSet
from scoresde_fast.generate.seeds import check_seeds
from scoresde_fast.sdes import CLDSDE

Json = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """What a run found.

    Attributes:
        quantity: what was found, with its unit.
        mean, standard_error: over the samples asked for; no error of a single one.
        made, found: samples computed now, and those that were there.
        seconds: it took.
        out: the file.
    """

    quantity: str
    mean: float
    standard_error: float | None
    made: int
    found: int
    seconds: float
    out: Path

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f", standard error {self.standard_error:.4f}"
        there = f", {self.found} were there already" if self.found else ""
        done = f"{self.made} computed in {self.seconds:.1f} s{there}" if self.made else "all were there already"
        samples = self.made + self.found
        return f"mean {self.mean:.4f} {self.quantity}{error}, over {samples} samples: {done} -> {self.out}"


def write_likelihoods(
    estimator: LikelihoodEstimator,
    data: Tensor,
    names: Sequence[str],
    out: Path,
    *,
    first_seed: int = 0,
    limit: int | None = None,
) -> Summary:
    """Write a line for each sample to ``out``, after every batch, and ``STEM.settings.json`` beside it.

    A line has the sample's name, its seed, ``bits_per_dim`` of 8-bit images, ``log_density`` in nats, its
    ``standard_error`` where there are several probes, and ``evaluations``.  Lines that are there already stay.  A
    batch with a missing line is computed again as a whole, and only what is missing is written, so that a file
    completed after any interruption is the one that is made in one go.

    Args:
        estimator: of the model.
        data: images (N, C, H, W) uint8, or points.
        names: one a sample.
        out: the file; its folder is made.
        first_seed: of sample 0; sample i has ``first_seed`` + i.
        limit: only so many of the first samples; more of them may be asked for later.

    Raises:
        ValueError: a bad seed or limit; ``out`` has lines of other settings, without settings, or other lines.
        IntegrationError: of one batch; what is finished is kept.
        OSError: a line cannot be written; what is finished is kept.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it is at least 1")
    count = len(data) if limit is None else min(limit, len(data))
    seeds = check_seeds(range(first_seed, first_seed + count))
    flow, settings_path = estimator.flow, out.with_name(f"{out.stem}.settings.json")
    probes = None if flow.probes is None else asdict(flow.probes)
    configuration = {
        "data_sha256": data_sha256(data),
        "first_seed": first_seed,
        "probes": probes,
        "dequantize": estimator.dequantize,
        "flow": flow.describe(),
    }
    manifest = Manifest.begin(settings_path, configuration)
    lines, end = _whole_lines(out, first_seed)
    if out.exists() and not manifest.seeds:
        raise ValueError(f"{out} has results but no {settings_path.name}; choose another --out or move it")
    found, started, size = min(len(lines), count), perf_counter(), flow.batch_size
    if found < count:
        manifest = manifest.extended(SeedSet.of(seeds), environment(flow.device, size))
        make_folder(out.parent)
        manifest.write(settings_path)  # first of all: no line without its settings
    with tqdm(total=count, initial=found, unit=" samples", disable=None) as bar:
        for batch in manifest.batches(size):
            rows = [seed - first_seed for seed in batch]
            if rows[-1] < len(lines) or rows[0] >= count:
                continue
            likelihood = estimator.estimate(data[rows], batch)
            missing = [place for place, row in enumerate(rows) if len(lines) <= row < count]
            new = [_line(names[rows[place]], batch[place], likelihood, place) for place in missing]
            end = _append(out, end, new)
            lines += new
            bar.update(len(new))
    key, title, side = ("bits_per_dim", "bits/dim", "an upper") if estimator.dequantize else (
        "log_density", "nats of log density", "a lower"
    )  # fmt: skip
    if isinstance(flow.model.sde, CLDSDE):
        title = f"{title} ({side} bound)"
    values = np.array([line[key] for line in lines[:count]])
    spread = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return Summary(title, float(values.mean()), spread, count - found, found, perf_counter() - started, out)


def _line(name: str, seed: int, likelihood: Likelihood, place: int) -> Json:
    columns = {
        "bits_per_dim": likelihood.bits_per_dim,
        "log_density": likelihood.log_density,
        "standard_error": likelihood.standard_error,
        "evaluations": likelihood.evaluations,
    }
    values = {key: column[place].item() for key, column in columns.items() if column is not None}
    return {"name": name, "seed": seed, **values}


def _append(out: Path, end: int, lines: list[Json]) -> int:
    """Write ``lines`` at byte ``end``, behind which a killed run may have left half a line; the byte they end at."""
    with open(out, "r+b" if end else "wb") as file:
        file.truncate(file.seek(end))
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _whole_lines(out: Path, first_seed: int) -> tuple[list[Json], int]:
    """The lines at ``out`` that are complete, and the byte they end at.

    Raises:
        ValueError: one is no result, or not of the seed that belongs in its place.
    """
    if not out.exists():
        return [], 0
    content = out.read_bytes()
    end = content.rfind(b"\n") + 1
    lines = []
    for number, text in enumerate(content[:end].splitlines()):
        try:
            line = json.loads(text)
            right = line["seed"] == first_seed + number and isinstance(line["log_density"], float)
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise ValueError(
                f"line {number + 1} of {out} is not the result of seed {first_seed + number}; move it or choose "
                "another --out"
            )
        lines.append(line)
    return lines, end

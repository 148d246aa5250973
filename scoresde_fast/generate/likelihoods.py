# SPDX-License-Identifier: Apache-2.0
"""Likelihoods of a data set: one JSON line per sample, written batch by batch and resumed after an interruption."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.files import make_folder
from scoresde_fast.fingerprint import data_sha256
from scoresde_fast.flow.likelihood import Likelihood, LikelihoodEstimator
from scoresde_fast.generate.manifest import Json, Manifest, environment
from scoresde_fast.generate.seeds import SeedSet, check_seeds
from scoresde_fast.sdes import CLDSDE


@dataclass(frozen=True)
class Summary:
    """The mean likelihood of a run; ``str`` of it is one sentence.

    Attributes:
        quantity: unit of the mean, and whether it is a bound.
        mean, standard_error: over the requested samples; a single sample has no standard error.
        made, found: samples computed, and samples that were in the file.
        seconds: duration of the run.
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
    ``standard_error`` with several probes, and ``evaluations``.  Existing lines are kept.  A batch with a missing line
    is computed again as a whole, and its missing lines are written: the finished file does not tell of interruptions.

    Args:
        estimator: of the model.
        data: images (N, C, H, W) uint8, or points.
        names: one per sample.
        out: the file; its folder is created.
        first_seed: the seed of sample 0; sample i has ``first_seed`` + i.
        limit: number of samples, counted from the first; a later run may ask for more.

    Raises:
        ValueError: a bad seed or limit; ``out`` has lines of other settings, without settings, or of other seeds.
        IntegrationError: in one batch; finished lines are kept.
        OSError: a line cannot be written; finished lines are kept.
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
        manifest.write(settings_path)  # before the first line
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
    """Write ``lines`` at byte ``end``, over half a line of a killed run, and return the byte at which they end."""
    with open(out, "r+b" if end else "wb") as file:
        file.truncate(file.seek(end))
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _whole_lines(out: Path, first_seed: int) -> tuple[list[Json], int]:
    """Return the complete lines of ``out``, and the byte at which they end.

    Raises:
        ValueError: a line is not the result of the seed that belongs in its place.
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

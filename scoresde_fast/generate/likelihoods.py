# SPDX-License-Identifier: Apache-2.0
"""`write_likelihoods`: writes the likelihoods of a data set as JSON lines, batch by batch, resumable."""

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

from scoresde_fast.files import make_folder, read_file
from scoresde_fast.flow.likelihood import Likelihood, LikelihoodEstimator
from scoresde_fast.generate.manifest import Json, Manifest, data_sha256, environment
from scoresde_fast.generate.seeds import SeedSet, check_seeds
from scoresde_fast.generate.stores import beside
from scoresde_fast.sdes import CLDSDE


@dataclass(frozen=True)
class Summary:
    """The mean likelihood of a run; ``str`` gives one sentence.

    Attributes:
        quantity: unit of the mean, and whether it is a bound.
        mean, standard_error: over the requested samples; the standard error of a single sample is None.
        made, found: numbers of samples that this run computed, and that the file already had.
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
        existing = f", {self.found} already existed" if self.found else ""
        work = f"{self.made} computed in {self.seconds:.1f} s{existing}" if self.made else "all already existed"
        samples = self.made + self.found
        return f"mean {self.mean:.4f} {self.quantity}{error}, over {samples} samples: {work} -> {self.out}"


def write_likelihoods(
    estimator: LikelihoodEstimator,
    data: Tensor,
    names: Sequence[str],
    out: Path,
    *,
    first_seed: int = 0,
    limit: int | None = None,
) -> Summary:
    """Write one line per sample to ``out``, after each batch, and the settings to ``OUT.settings.json`` beside it.

    A line contains ``name``, ``seed``, ``bits_per_dim`` (8-bit images only), ``log_density`` in nats, its
    ``standard_error`` (several probes only), and ``evaluations``.  Existing lines are kept.  If a line is
    missing, its whole batch is computed again, so that the finished file does not depend on interruptions.

    Args:
        estimator: the estimator for the model.
        data: images (N, C, H, W) uint8, or points.
        names: one per sample.
        out: the file; its folder is created.
        first_seed: the seed of sample 0; sample i has ``first_seed`` + i.
        limit: number of samples, counted from the first; a later run may request more.

    Raises:
        ValueError: a seed or the limit is invalid; or ``out`` has lines of other settings or seeds, or has no file of
            settings.
        IntegrationError: the integration of a batch failed; finished lines are kept.
        OSError: a line cannot be written; finished lines are kept.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    count = len(data) if limit is None else min(limit, len(data))
    seeds = check_seeds(range(first_seed, first_seed + count))
    flow, settings_path = estimator.flow, beside(out, ".settings.json")
    probes = None if flow.probes is None else asdict(flow.probes)
    configuration = {
        "data_sha256": data_sha256(data),
        "first_seed": first_seed,
        "probes": probes,
        "dequantize": estimator.dequantize,
        "flow": flow.describe(),
    }
    manifest = Manifest.begin(settings_path, configuration)
    lines, end = _complete_lines(out, first_seed)
    if out.exists() and not manifest.seeds:
        raise ValueError(f"{out} has results but no {settings_path.name}; choose another --out or move it")
    existing, start = min(len(lines), count), perf_counter()
    if existing < count:
        manifest = manifest.extended(SeedSet.of(seeds), environment(flow.device, flow.batch_size))
        make_folder(out.parent)
        manifest.write(settings_path)  # before the first line
    with tqdm(total=count, initial=existing, unit=" samples", disable=None) as bar:
        for batch in manifest.batches(flow.batch_size):
            samples = [seed - first_seed for seed in batch]
            if samples[-1] < len(lines) or samples[0] >= count:
                continue
            likelihood = estimator.estimate(data[samples], batch)
            missing = [row for row, sample in enumerate(samples) if len(lines) <= sample < count]
            new = [_line(names[samples[row]], batch[row], likelihood, row) for row in missing]
            end = _append(out, end, new)
            lines += new
            bar.update(len(new))
    if estimator.dequantize:
        key, quantity, bound = "bits_per_dim", "bits/dim", "an upper bound"
    else:
        key, quantity, bound = "log_density", "nats of log density", "a lower bound"
    values = np.array([line[key] for line in lines[:count]])
    return Summary(
        quantity=f"{quantity} ({bound})" if isinstance(flow.model.sde, CLDSDE) else quantity,
        mean=float(values.mean()),
        standard_error=float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
        made=count - existing,
        found=existing,
        seconds=perf_counter() - start,
        out=out,
    )


def _line(name: str, seed: int, likelihood: Likelihood, row: int) -> Json:
    columns = {
        "bits_per_dim": likelihood.bits_per_dim,
        "log_density": likelihood.log_density,
        "standard_error": likelihood.standard_error,
        "evaluations": likelihood.evaluations,
    }
    values = {key: column[row].item() for key, column in columns.items() if column is not None}
    return {"name": name, "seed": seed, **values}


def _append(out: Path, end: int, lines: list[Json]) -> int:
    """Write ``lines`` at byte ``end``, replacing an incomplete line of a killed run; return the new end."""
    with open(out, "r+b" if end else "wb") as file:
        file.truncate(file.seek(end))
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _complete_lines(out: Path, first_seed: int) -> tuple[list[Json], int]:
    """Return the complete lines of ``out`` and the byte at which they end.

    Raises:
        ValueError: ``out`` is not a regular file, or line i is not a result of seed ``first_seed`` + i.
    """
    if not out.exists():
        return [], 0
    try:
        content = read_file(out)
    except ValueError as error:
        raise ValueError(f"{out} has no results: {error}; move it or choose another --out") from error
    end = content.rfind(b"\n") + 1
    lines = []
    for index, text in enumerate(content[:end].splitlines()):
        try:
            line = json.loads(text)
            valid = line["seed"] == first_seed + index and isinstance(line["log_density"], float)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            raise ValueError(
                f"line {index + 1} of {out} is not the result of seed {first_seed + index}; move the file or choose "
                "another --out"
            )
        lines.append(line)
    return lines, end

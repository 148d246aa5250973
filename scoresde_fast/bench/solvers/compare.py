# SPDX-License-Identifier: Apache-2.0
"""The comparison itself: every contender draws the same seeds, and its samples are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scoresde_fast.bench.machine import device_name, provenance
from scoresde_fast.bench.solvers.adaptive import adaptive
from scoresde_fast.bench.solvers.contender import Contender, Family, Rules
from scoresde_fast.bench.solvers.converged import ConvergedFlow
from scoresde_fast.bench.solvers.fixed_step import fixed_step
from scoresde_fast.bench.solvers.measures import IMAGE_SHAPE, LEAST_SAMPLES, Frechet, Wasserstein
from scoresde_fast.bench.solvers.mixtures import MIXTURES, mixture
from scoresde_fast.bench.solvers.pictures import pictures
from scoresde_fast.bench.solvers.results import Results
from scoresde_fast.bench.solvers.runner import Runner
from scoresde_fast.bench.solvers.times import line_times
from scoresde_fast.bench.solvers.verdict import verdict
from scoresde_fast.bench.waterfall import Say, tell
from scoresde_fast.checkpoints.loading import embedded_names, load
from scoresde_fast.devices import usable_device
from scoresde_fast.errors import unknown
from scoresde_fast.fingerprint import weights_sha256
from scoresde_fast.model import ScoreFunction

FAMILIES: tuple[Family, ...] = (fixed_step, adaptive)
"""Where lines come from.  A solver of another kind joins by a family of its own."""

SAMPLES = {"mixture": 20_000, "image": 2_000}
BATCH = {"mixture": 20_000, "image": 100}
TIMING_SECONDS = {"mixture": 30.0, "image": 120.0}
RESULT_KEYS = (
    "title",
    "model",
    "weights_sha256",
    "sde",
    "samples",
    "machine",
    "timed_on",
    "measure",
    "floor",
    "floor_name",
    "chance",
    "flow_gap",
    "own",
    "command",
    "date",
    "device",
    "notes",
    "lines",
    "skipped",
    "left_out",
    "verdict",
    "pictures",
)
NOTES = (
    "Every line draws the same seeds: its samples begin at the same states and are scored in the same way.",
    "The standard error is what other seeds would change, seen between halves of the samples. Two lines are tied where "
    "they differ by less than twice the standard error of their difference, or where both are as near as exact draws "
    "of the same number may be.",
    "A distance of few samples is larger than that of many, for every line alike; the floor shows by how much.",
    "Time is taken apart from quality, in one process: round after round every line draws one batch in turn, in an "
    "order that rotates. It is the median of the rounds; a line of very many evaluations may have had one alone.",
    "A line takes as many steps as its budget of network evaluations allows, denoising and correctors included.",
)
FLOW_NOTE = (
    "The error of a deterministic line is the root mean square distance, over the first seeds, from the converged "
    "solution of the probability flow, before denoising. The published uniform grid ends elsewhere than at eps."
)


def compare(
    name: str,
    rules: Rules | None = None,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    seconds: float | None = None,
    timing_seconds: float | None = None,
    out: Path | None = None,
    command: str = "",
    say: Say = tell,
    families: Sequence[Family] = FAMILIES,
) -> dict[str, Any]:
    """Measure every contender on a model: `RESULT_KEYS`.

    Args:
        name: a mixture of `MIXTURES`, an embedded model, or the folder of one like it.
        rules: what lines have in common, and which are wanted; None: all, with the usual budgets.
        samples: of every line; None: 2 000 images or 20 000 numbers.
        batch_size: samples at once; None: 100 images or 20 000 numbers.
        seconds: after which no more lines begin; the most telling come first.
        timing_seconds: for the rounds that tell what lines cost, after all; 0: lines are not timed; None:
            `TIMING_SECONDS`.
        out: where the result is written after every line.  What it holds already is not measured again, but timed.
        command: what the user wrote.
        say: hears of progress, a line at a time.
        families: where lines come from.

    Raises:
        ValueError: a name is unknown, a number is out of range, the model's samples cannot be scored, or ``out`` holds
            something else.
    """
    rules = rules or Rules()
    _require(rules, samples, batch_size, seconds, timing_seconds)
    where = usable_device(rules.device)
    model, kind = _model(name), "mixture" if name in MIXTURES else "image"
    samples = samples or SAMPLES[kind]
    rules = replace(rules, batch_size=batch_size or BATCH[kind])
    timing_seconds = TIMING_SECONDS[kind] if timing_seconds is None else timing_seconds
    contenders = [contender for family in families for contender in family(model, rules)]
    same = {
        "model": name,
        "weights_sha256": weights_sha256(model),
        "samples": samples,
        "machine": device_name(where, with_threads=False),
    }
    results = Results(same, out)
    measure = Wasserstein(samples) if kind == "mixture" else Frechet()
    flow = ConvergedFlow.of(model, samples) if kind == "mixture" else None
    runner = Runner(measure, flow, samples, seconds, say)
    known = provenance()

    def result() -> dict[str, Any]:
        return {
            "title": f"{name} on {same['machine']}",
            **same,
            "timed_on": results.timed_on,
            "sde": model.sde.name,
            "measure": measure.name,
            "floor": measure.floor,
            "floor_name": measure.floor_name,
            "chance": measure.chance,
            "flow_gap": None if flow is None else flow.gap,
            "own": list(rules.extra),
            "command": command or known["command"],
            "date": known["date"],
            "device": {"type": where.type, **known["device"]},
            "notes": [*NOTES, *([] if flow is None else [FLOW_NOTE])],
            "lines": results.lines,
            "skipped": runner.skipped,
            "left_out": runner.left_out,
            "verdict": verdict(results.lines, rules.budgets, measure.chance),
            "pictures": [],
        }

    say(f"{name}, {samples} samples a line, {len(contenders)} lines at most; {measure.name}, {measure.floor_name}: "
        f"{measure.floor:.4g}")  # fmt: skip
    try:
        for contender in sorted(contenders, key=_turn):
            line = runner.line(contender, results)
            if line is not None:
                results.add(line)
                results.write(result)
    finally:
        results.write(result, now=True)
    if timing_seconds:
        batch = min(rules.batch_size, samples)
        times = line_times(runner.known, results.lines, batch, where, timing_seconds, say)
        on = {"device": same["machine"], "threads": torch.get_num_threads(), "batch_size": batch}
        if times:
            results.put_times(times, on)
            results.write(result, now=True)
    finished = result()
    if kind == "image":
        finished["pictures"] = pictures(finished, contenders)
        results.write(lambda: finished, now=True)
    return finished


def _turn(contender: Contender) -> tuple[Any, ...]:
    """When a line is measured: the most telling first, among them the cheapest."""
    case = contender.case
    return contender.telling, case.budget or math.inf, -(case.tolerance or 0.0)


def _model(name: str) -> ScoreFunction:
    """Raises ValueError where there is no such model, or its samples cannot be scored."""
    if name in MIXTURES:
        return mixture(name)
    if name not in embedded_names() and not Path(name).exists():
        raise ValueError(unknown("model", name, [*MIXTURES, *embedded_names()]))
    model = load(name)
    if not model.is_image or model.image_shape != IMAGE_SHAPE:
        raise ValueError(
            f"the samples of {name!r} have the shape {model.image_shape}; the comparison scores images of the shape "
            f"{IMAGE_SHAPE} by digits-features, or a mixture: {', '.join(MIXTURES)}"
        )
    return model


def _require(
    rules: Rules, samples: int | None, batch_size: int | None, seconds: float | None, timing_seconds: float | None
) -> None:
    if not rules.budgets:
        raise ValueError("no budget of network evaluations is given: name at least one")
    for value in rules.budgets:
        if value < 1:
            raise ValueError(f"a budget is {value} network evaluations; it must be at least 1")
    if samples is not None and samples < LEAST_SAMPLES:
        raise ValueError(f"samples is {samples}; it must be at least {LEAST_SAMPLES}, so that halves can be compared")
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"the limit is {seconds} seconds; it must be a finite number greater than 0")
    if timing_seconds is not None and not (timing_seconds >= 0 and math.isfinite(timing_seconds)):
        raise ValueError(f"the time for timing is {timing_seconds} seconds; it must be a finite number, 0 for none")
    if rules.reference_steps is not None and rules.reference_steps < 1:
        raise ValueError(f"the reference takes {rules.reference_steps} steps; it must take at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1")

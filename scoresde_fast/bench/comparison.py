# SPDX-License-Identifier: Apache-2.0
"""The comparison of solvers on one model: every candidate draws the same seeds, and its samples are measured."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.bench.candidates import (
    Candidate,
    Case,
    ComparisonOptions,
    Family,
    Prepared,
    adaptive,
    fixed_step,
)
from scoresde_fast.bench.machine import device_name, provenance
from scoresde_fast.bench.measures import (
    IMAGE_SHAPE,
    LEAST_SAMPLES,
    MIXTURES,
    ConvergedFlow,
    Frechet,
    Measure,
    Wasserstein,
    mixture,
    standard_error,
)
from scoresde_fast.bench.ranking import MeasuredCase, rank
from scoresde_fast.bench.results import Comparison, Strip, UnmeasuredCase, error_sentence
from scoresde_fast.bench.timing import add_rounds, wall_seconds
from scoresde_fast.checkpoints.loading import embedded_names, load
from scoresde_fast.data import digits
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.devices import usable_device
from scoresde_fast.errors import unknown_message
from scoresde_fast.fingerprint import weights_sha256
from scoresde_fast.generate.pixels import to_pixels
from scoresde_fast.model import ScoreFunction

FAMILIES: tuple[Family, ...] = (fixed_step, adaptive)

SAMPLES = {"mixture": 20_000, "image": 2_000}
BATCH = {"mixture": 20_000, "image": 100}
TIMING_SECONDS = {"mixture": 30.0, "image": 120.0}
LEAST_ROUNDS, MOST_ROUNDS = 3, 9
ONCE = 0.1
"""A case that takes more than this share of the time for timing is only in the first round."""
WRITE_EVERY = 2.0
"""Seconds between writes of the result, which fast cases share."""
SHOWN = 12
"""Images of a strip."""
NOTES = (
    "All candidates draw the same seeds: their samples begin at the same states and are scored in the same way.",
    "The standard error is the effect of other seeds, estimated from halves of the samples. Two candidates are tied if "
    "they differ by less than twice the standard error of their difference, or if both are as near as exact draws of "
    "the same number may be.",
    "A distance of few samples is larger than that of many, for all candidates alike; the floor shows by how much.",
    "Time is measured apart from quality, in one process: in every round each candidate draws one batch, in an order "
    "that rotates. The figure is the median of the rounds; a candidate of very many evaluations may have only one.",
    "A candidate takes as many steps as its budget of network evaluations allows, denoising and correctors included.",
)
FLOW_NOTE = (
    "The error of a deterministic candidate is the root mean square distance, over the first seeds, from the converged "
    "solution of the probability flow, before denoising. The published uniform grid does not end at eps."
)


def compare(
    name: str,
    options: ComparisonOptions | None = None,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    seconds: float | None = None,
    timing_seconds: float | None = None,
    out: Path | None = None,
    families: Sequence[Family] = FAMILIES,
) -> Comparison:
    """Measure every candidate on a model.

    Args:
        name: a mixture of `MIXTURES`, an embedded model, or the folder of a model like those.
        options: what the candidates share, and which ones are wanted; by default all, with the usual budgets.
        samples: of every candidate; by default 2 000 images or 20 000 numbers.
        batch_size: samples at once; by default 100 images or 20 000 numbers.
        seconds: no candidate begins that would end later. Those of the highest `Priority` come first.
        timing_seconds: for the rounds that time the cases, after all are measured; 0 times nothing. The default is
            `TIMING_SECONDS`.
        out: a file for the result, written during the run. Cases that it holds already are only timed.
        families: the kinds of candidates.

    Raises:
        ValueError: a name is unknown, a number is out of range, the model's samples cannot be scored, or ``out`` holds
            another result.
    """
    options = options or ComparisonOptions()
    _require(options, samples, batch_size, seconds, timing_seconds)
    device = usable_device(options.device)
    model, kind = _model(name), "mixture" if name in MIXTURES else "image"
    samples = samples or SAMPLES[kind]
    options = replace(options, batch_size=batch_size or BATCH[kind])
    timing_seconds = TIMING_SECONDS[kind] if timing_seconds is None else timing_seconds
    candidates = [candidate for family in families for candidate in family(model, options)]
    machine, weights = device_name(device, with_threads=False), weights_sha256(model)
    lines, timed_on = _kept(out, {"model": name, "weights_sha256": weights, "samples": samples, "machine": machine})
    measure = Wasserstein(samples) if kind == "mixture" else Frechet()
    flow = ConvergedFlow.of(model, samples) if kind == "mixture" else None
    known = provenance()
    result = Comparison(
        title=f"{name} on {machine}",
        model=name,
        weights_sha256=weights,
        samples=samples,
        machine=machine,
        timed_on=timed_on,
        sde=model.sde.name,
        measure=measure.name,
        floor=measure.floor,
        floor_name=measure.floor_name,
        chance=measure.chance,
        flow_gap=None if flow is None else flow.gap,
        own=list(options.extra),
        command=known["command"],
        date=known["date"],
        device={"type": device.type, **known["device"]},
        notes=[*NOTES, *([] if flow is None else [FLOW_NOTE])],
        lines=lines,
    )
    print(
        f"{name}: at most {len(candidates)} candidates of {samples} samples; {measure.name}, {measure.floor_name}: "
        f"{measure.floor:.4g}",
        flush=True,
    )
    run = _Run(result, measure, flow, options.budgets, seconds, out)
    try:
        for candidate in sorted(candidates, key=_turn):
            run.measure(candidate)
    finally:
        run.write(now=True)
    if timing_seconds:
        run.time(device, min(options.batch_size, samples), timing_seconds)
    if kind == "image":
        result.pictures = strips(result, candidates)
    run.write(now=True)
    return result


def _turn(candidate: Candidate) -> tuple[Any, ...]:
    """Sort by priority, then the cheapest first."""
    case = candidate.case
    return candidate.priority, case.budget or math.inf, -(case.tolerance or 0.0)


def _model(name: str) -> ScoreFunction:
    """Load a model; ValueError where there is none, or its samples cannot be scored."""
    if name in MIXTURES:
        return mixture(name)
    if name not in embedded_names() and not Path(name).exists():
        raise ValueError(unknown_message("model", name, [*MIXTURES, *embedded_names()]))
    model = load(name)
    if not model.is_image or model.image_shape != IMAGE_SHAPE:
        raise ValueError(
            f"the samples of {name!r} have the shape {model.image_shape}; the comparison scores images of the shape "
            f"{IMAGE_SHAPE} by digits-features, or a mixture: {', '.join(MIXTURES)}"
        )
    return model


def _require(
    options: ComparisonOptions,
    samples: int | None,
    batch_size: int | None,
    seconds: float | None,
    timing_seconds: float | None,
) -> None:
    if not options.budgets:
        raise ValueError("no budget of network evaluations is given: name at least one")
    for value in options.budgets:
        if value < 1:
            raise ValueError(f"a budget is {value} network evaluations; it must be at least 1")
    if samples is not None and samples < LEAST_SAMPLES:
        raise ValueError(f"samples is {samples}; it must be at least {LEAST_SAMPLES}, so that halves can be compared")
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"the limit is {seconds} seconds; it must be a finite number greater than 0")
    if timing_seconds is not None and not (timing_seconds >= 0 and math.isfinite(timing_seconds)):
        raise ValueError(f"the time for timing is {timing_seconds} seconds; it must be a finite number, 0 for none")
    if options.reference_steps is not None and options.reference_steps < 1:
        raise ValueError(f"the reference takes {options.reference_steps} steps; it must take at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1")


def _kept(path: Path | None, same: Mapping[str, Any]) -> tuple[list[MeasuredCase], dict[str, Any] | None]:
    """Return the measured cases of an earlier call and what they were timed on.

    Args:
        path: the earlier result, if there is one.
        same: the fields that must be equal, because cases would not be comparable otherwise.
    """
    if path is None or not path.exists():
        return [], None
    try:
        kept = Comparison.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{str(path)!r} holds no result of this command: choose another --out or remove it") from None
    for key, value in same.items():
        if getattr(kept, key) != value:
            raise ValueError(
                f"{str(path)!r} has {key} {getattr(kept, key)!r}, this run has {value!r}: choose another --out or "
                "remove it"
            )
    return kept.lines, kept.timed_on


class _Run:
    """Measures and times candidates into a result, within a time, and writes it during the run."""

    def __init__(
        self,
        result: Comparison,
        measure: Measure,
        flow: ConvergedFlow | None,
        budgets: Sequence[int],
        seconds: float | None,
        out: Path | None,
    ) -> None:
        self.result, self.score, self.flow, self.budgets = result, measure, flow, budgets
        self.seconds, self.out = seconds, out
        self.begin, self.written = time.perf_counter(), 0.0
        self.pace: list[float] = []  # seconds an evaluation of all samples, with everything that a case needs
        self.lines = {line.key: line for line in result.lines}
        self.known: dict[str, Candidate] = {}  # by digest, the first of those that can run

    def measure(self, candidate: Candidate) -> None:
        """Add the candidate's case to the result: measured, skipped or left out."""
        case = candidate.case
        try:
            prepared = candidate.prepare()
            self.known.setdefault(prepared.digest, candidate)
            same = [line for line in self.lines.values() if line.digest == prepared.digest]
            if any(line.key == case.key for line in same):
                return
            if same:  # the same steps under another name
                line = replace(same[0], **case.case_fields())
            elif self._too_long(prepared):
                reason = f"the limit of {self.seconds:g} s"
                self.result.left_out.append(UnmeasuredCase(**case.case_fields(), nfe=prepared.nfe, reason=reason))
                return
            else:
                line = self._measured(case, prepared)
        except Exception as error:  # one broken candidate, perhaps a user's, must not stop the others
            reason = error_sentence(error)
            self.result.skipped.append(UnmeasuredCase(**case.case_fields(), reason=reason))
            if case.reference:
                print(f"  {case.name}, the reference, cannot run: {reason}", flush=True)
            return
        self.lines.pop(case.key, None)  # of an earlier method
        self.lines[case.key] = line
        self.result.lines = list(self.lines.values())
        self.write()

    def _too_long(self, prepared: Prepared) -> bool:
        if self.seconds is None:
            return False
        expected = median(self.pace) * prepared.nfe if self.pace else 0.0
        return time.perf_counter() - self.begin + expected > self.seconds

    def _measured(self, case: Case, prepared: Prepared) -> MeasuredCase:
        begin = time.perf_counter()
        line = MeasuredCase(**case.case_fields(), digest=prepared.digest, steps=prepared.steps, nfe=prepared.nfe)
        try:
            line = self._with_figures(line, prepared)
            outcome = f"{line.nfe:.4g} NFE, {line.quality:.4g} ± {line.standard_error:.2g}"
        except FloatingPointError as error:
            line = replace(line, diverged=error_sentence(error))
            outcome = f"{line.nfe:g} NFE, diverged"
        self.pace.append((time.perf_counter() - begin) / prepared.nfe)
        print(f"  {line}: {outcome}", flush=True)
        return line

    def _with_figures(self, line: MeasuredCase, prepared: Prepared) -> MeasuredCase:
        prepared.warm_up()
        drawn = prepared.draw(range(self.result.samples))
        samples = drawn.samples.cpu()
        if not samples.isfinite().all():
            raise FloatingPointError("the samples are not finite")
        score = self.score(samples)
        error = None
        if self.flow is not None and prepared.flow_end is not None:
            error = self.flow.error(prepared.flow_end(self.flow.seeds).cpu())
        return replace(
            line,
            nfe=drawn.nfe,
            quality=score.quality,
            standard_error=standard_error(score.half_differences),
            half_differences=score.half_differences,
            more=score.more,
            flow_error=error,
        )

    def time(self, device: torch.device, batch: int, seconds: float) -> None:
        """Time the measured cases: each draws one batch in turn, round after round.

        Every turn prepares its candidate anew, untimed: a thousand folded or captured networks would not fit in memory.
        A case is timed only if, at the pace of the others, all its rounds fit into ``seconds``. The other cases keep
        their earlier times if these come from the same device, threads and batch size.
        """
        wanted = {line.digest: line for line in self.lines.values() if not line.diverged and line.digest in self.known}
        begin = time.perf_counter()
        spent: dict[str, float] = {}  # seconds of the last turn, by digest

        def read(digest: str) -> float:
            start = time.perf_counter()
            prepared = self.known[digest].prepare()
            prepared.warm_up()
            reading = wall_seconds(lambda: prepared.draw(range(batch)), device)
            spent[digest] = time.perf_counter() - start
            return reading

        def rounds(turn: float) -> int:
            return 1 if turn > ONCE * seconds else LEAST_ROUNDS

        readings: dict[str, list[float]] = {}
        for digest in (digest for digest in self.known if digest in wanted):
            line = wanted[digest]
            expected = line.nfe * median([took / wanted[other].nfe for other, took in spent.items()] or [0.0])
            to_come = sum(rounds(took) * took for took in (*spent.values(), expected)) - sum(spent.values())
            if time.perf_counter() - begin + to_come > seconds:
                continue
            try:
                readings[digest] = [read(digest)]
            except Exception as error:  # a second run can fail where the first did not, for lack of memory perhaps
                print(f"  {line} cannot be timed: {error_sentence(error)}", flush=True)
        repeated = {digest: taken for digest, taken in readings.items() if rounds(spent[digest]) > 1}
        add_rounds(repeated, read, begin + seconds, LEAST_ROUNDS, MOST_ROUNDS)
        print(f"timed {len(readings)} of {len(wanted)} candidates in {time.perf_counter() - begin:.3g} s", flush=True)
        if not readings:
            return
        timed_on = {"device": self.result.machine, "threads": torch.get_num_threads(), "batch_size": batch}
        for key, line in self.lines.items():
            if taken := readings.get(line.digest):
                self.lines[key] = replace(line, seconds_per_1000=1000 * median(taken) / batch, timed=len(taken))
            elif timed_on != self.result.timed_on:
                self.lines[key] = replace(line, seconds_per_1000=None, timed=0)
        self.result.lines, self.result.timed_on = list(self.lines.values()), timed_on

    def write(self, *, now: bool = False) -> None:
        """Rank the cases and write the result, at most every `WRITE_EVERY` seconds unless ``now``."""
        if not now and (self.out is None or time.monotonic() - self.written < WRITE_EVERY):
            return
        self.result.ranking = rank(self.result.lines, self.budgets, self.result.chance)
        if self.out is not None:
            self.result.write(self.out)
        self.written = time.monotonic()


def strips(result: Comparison, candidates: Iterable[Candidate]) -> list[Strip]:
    """Draw the first images of the best case of each budget, and show as many of the data."""
    by_key = {candidate.case.key: candidate for candidate in candidates}
    found = [_strip("the data", digits("test")[0][:SHOWN] / 255)]
    for best in result.ranking.by_nfe:
        line = result.lines[best.best]
        if candidate := by_key.get(line.key):  # a kept case may be of a solver that this call leaves out
            drawn = candidate.prepare().draw(range(min(SHOWN, result.samples)))
            found.append(_strip(f"at most {best.limit} evaluations: {line}", drawn.samples))
    return found


def _strip(title: str, images: Tensor) -> Strip:
    """Join images (N, C, H, W) in [0, 1] side by side."""
    pixels = np.concatenate(list(to_pixels(images, "floor")), axis=1)
    return Strip(title, base64.b64encode(encode_png(pixels)).decode())

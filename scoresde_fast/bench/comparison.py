# SPDX-License-Identifier: Apache-2.0
"""Comparison of solvers on one model: every candidate draws the same seeds, and its samples are scored."""

from __future__ import annotations

import math
import runpy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from scoresde_fast.bench.candidates import (
    Candidate,
    Case,
    ComparisonOptions,
    Family,
    Prepared,
    adaptive,
    fixed_step,
)
from scoresde_fast.bench.measures import MIXTURES, mixture, standard_error
from scoresde_fast.bench.pages import write_html
from scoresde_fast.bench.peers.cases import absence_notes, library_versions, peers
from scoresde_fast.bench.pictures import image_strips
from scoresde_fast.bench.progress import Progress, duration
from scoresde_fast.bench.ranking import MeasuredCase, rank
from scoresde_fast.bench.results import (
    Comparison,
    UnmeasuredCase,
    device_name,
    error_sentence,
    provenance,
    read_result,
    rounded,
    write_result,
)
from scoresde_fast.bench.targets import Target, image_target, mixture_target
from scoresde_fast.bench.timing import add_rounds, wall_seconds
from scoresde_fast.checkpoints.loading import embedded_names
from scoresde_fast.checkpoints.python_models import is_python_name, load_model
from scoresde_fast.devices import usable_device
from scoresde_fast.errors import unknown_message
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.loop.inputs import NetworkInputs
from scoresde_fast.model import ScoreFunction, ScoreModel, describe_model, weights_sha256
from scoresde_fast.networks.adapter import Adapter
from scoresde_fast.solvers import SOLVERS

FAMILIES: tuple[Family, ...] = (fixed_step, adaptive, peers)

SAMPLES = {"mixture": 20_000, "image": 2_000}
BATCH = {"mixture": 20_000, "image": 100}
TIMING_SECONDS = {"mixture": 30.0, "image": 120.0}
MIN_ROUNDS, MAX_ROUNDS = 3, 9
SINGLE_ROUND_SHARE = 0.1
"""A case that takes more than this share of the timing budget for one reading is timed in the first round only."""
WRITE_SHARE = 0.1
"""Largest share of the time that goes to writing the result during the run."""
EXTRACTED = 64
"""Number of images whose features are extracted at once, as in `evaluate`."""
NOTES = (
    "All candidates draw the same seeds: their samples start from the same states and are scored in the same way.",
    "The standard error is the effect of other seeds, estimated from halves of the samples. Two candidates are tied if "
    "they differ by less than twice the standard error of their difference, or if both are as close as exact samples "
    "can be by chance.",
    "Few samples give a larger distance than many, for all candidates alike; the floor shows by how much.",
    "Time is measured after quality, in one process: in every round each candidate draws one batch, and the order "
    "rotates. The figure is the median of the rounds; slow candidates may have only one round.",
    "A candidate takes as many steps as its budget of network evaluations allows, including denoising and correctors.",
)
FLOW_NOTE = (
    "The error of a deterministic candidate is the RMS distance, over the first seeds, from the converged solution of "
    "the probability flow, before denoising. The published uniform grid does not end at eps."
)
PEERS_NOTE = (
    "Solvers whose names begin with diffusers or k-diffusion are those of that library, run by its own code with the "
    "same network, start, times and number of evaluations. They stop at eps and denoise with the last evaluation, as "
    "the others do. Their noise comes from PyTorch's generators, with a seed for each batch."
)


def compare(
    model: str | ScoreFunction,
    options: ComparisonOptions | None = None,
    *,
    name: str | None = None,
    reference: str | None = None,
    extractor: Extractor | None = None,
    training_set: str | None = None,
    trust_pickle: bool = False,
    out: Path | None = None,
    html: Path | None = None,
    families: Sequence[Family] = FAMILIES,
) -> Comparison:
    """Measure every candidate on a model.

    Args:
        model: any model of images, the name or the folder of a saved one, or a mixture of `MIXTURES`.
        options: settings, and the selection of candidates; by default all.
        name: the model's name in the result; by default its own, or that of its network's class.
        reference, extractor, training_set, trust_pickle: as of `scoresde_fast.evaluation.evaluate`. By default images
            of the digits' shape are compared with the digits, and the extractor is the one for the images' size.
        out: output file, also written during the run. Cases that it already contains are not measured again.
        html: file of the page, also written during the run.
        families: functions that return the candidates.

    Raises:
        ValueError: a name is unknown, the model's samples cannot be scored, or ``out`` contains a different result.
        FileNotFoundError: the model, the reference, the training set or the extractor's weights do not exist.
        MissingPackageError: the libraries of pages are not installed, and ``html`` is given; or no library of peers is,
            and ``options.peers`` is set.
    """
    options = options or ComparisonOptions()
    device = usable_device(options.device)
    kind = "mixture" if isinstance(model, str) and model in MIXTURES else "image"
    if isinstance(model, str):
        name, model = name or model, _load_model(model)
    elif name is None:
        network = model.network.network if isinstance(model.network, Adapter) else model.network
        name = getattr(network, "__name__", type(network).__name__)
    if kind == "image" and not model.is_image:
        raise ValueError(
            f"{name} is a model of points; the comparison scores models of images, and the mixtures "
            f"{', '.join(MIXTURES)}"
        )
    samples, batch_size = options.samples or SAMPLES[kind], options.batch_size or BATCH[kind]
    timing_seconds = TIMING_SECONDS[kind] if options.timing_seconds is None else options.timing_seconds
    options = replace(options, batch_size=batch_size)
    candidates = [candidate for family in families for candidate in family(model, options)]
    model = model.to(device).eval()
    inputs = NetworkInputs.bind(options.inputs, options.guidance, model, device)
    machine = device_name(device, with_threads=False)
    if kind == "image":
        target = image_target(
            model.image_shape,
            samples,
            device=device,
            reference=reference,
            extractor=extractor,
            training_set=training_set,
            trust_pickle=trust_pickle,
            batch_size=EXTRACTED,
        )
    elif reference is not None or extractor is not None or training_set is not None:
        raise ValueError(f"{name} is compared with its exact distribution: leave out reference, extractor and images")
    else:
        target = mixture_target(model, samples)
    measure, flow = target.measure, target.flow
    has_config = isinstance(model, ScoreModel) or kind == "mixture"
    described = {} if has_config else {"description": describe_model(model)}
    absent = absence_notes() if options.peers else []
    peer_notes = [PEERS_NOTE, *absent] if options.peers else []
    result = Comparison(
        title=f"{name} on {machine}",
        model=name,
        weights_sha256=weights_sha256(model),
        settings=rounded(described | inputs.describe() | target.identity),
        samples=samples,
        machine=machine,
        sde=model.sde.name,
        measure=measure.name,
        floor=measure.floor,
        floor_name=measure.floor_name,
        chance=measure.chance,
        flow_gap=None if flow is None else flow.gap,
        own=list(options.extra),
        **provenance(device),
        notes=[*NOTES, *([] if flow is None else [FLOW_NOTE]), *peer_notes, *target.notes],
    )
    if options.peers:
        result.device["versions"] |= library_versions()
    if out is not None and out.exists():
        _continue(result, out)
    floor = "" if measure.floor is None else f", {measure.floor_name}: {measure.floor:.4g}"
    print(
        f"{name}: at most {len(candidates)} candidates, {samples} samples each; {measure.name}{floor}",
        *absent,
        *target.notes,
        sep="\n  ",
        flush=True,
    )
    run = _Run(result, target, options, candidates, out, html)
    try:
        for candidate in sorted(candidates, key=_measurement_order):
            run.measure(candidate)
    finally:
        run.write()
    if timing_seconds:
        run.time(device, min(batch_size, samples), timing_seconds)
    if kind == "image":
        result.pictures = image_strips(result, candidates, target)
    result.progress = ""
    run.write()
    return result


def _measurement_order(candidate: Candidate) -> tuple[Any, ...]:
    """Return the sort key: the priority, then the cost."""
    case = candidate.case
    return candidate.priority, case.budget or math.inf, -(case.tolerance or 0.0)


def _load_model(name: str) -> ScoreFunction:
    """Return the model; raise ValueError if the name is unknown."""
    if name in MIXTURES:
        return mixture(name)
    if name not in embedded_names() and not is_python_name(name) and not Path(name).exists():
        raise ValueError(unknown_message("model", name, [*MIXTURES, *embedded_names()]))
    return load_model(name)


def _continue(result: Comparison, path: Path) -> None:
    """Add the measured cases of an earlier call; raise ValueError unless the file has its result for the same run."""
    try:
        earlier = read_result(Comparison, path)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{str(path)!r} is not a result of this command: choose another --out or remove it") from None
    names = ("model", "weights_sha256", "samples", "machine", "measure")
    identities = [{name: getattr(each, name) for name in names} | each.settings for each in (earlier, result)]
    for name in identities[0] | identities[1]:
        old, new = (identity.get(name) for identity in identities)
        if old != new:
            raise ValueError(
                f"{str(path)!r} has {name} {old!r}, this run has {new!r}: choose another --out or remove it"
            )
    result.lines, result.timed_on = earlier.lines, earlier.timed_on


class _Run:
    """Measures and times candidates within a time limit, and writes the result during the run."""

    def __init__(
        self,
        result: Comparison,
        target: Target,
        options: ComparisonOptions,
        candidates: Sequence[Candidate],
        out: Path | None,
        html: Path | None,
    ) -> None:
        self.result, self.score, self.flow, self.options = result, target.measure.score, target.flow, options
        self.out, self.html = out, html
        self.lines = {line.key: line for line in result.lines}
        self.runnable: dict[str, Candidate] = {}  # the first candidate of each digest
        costs = {each.case.key: 0.0 if each.case.key in self.lines else each.cost for each in candidates}
        self.progress = Progress(costs, options.seconds)
        self.written = self.write_seconds = 0.0

    def measure(self, candidate: Candidate) -> None:
        """Measure a candidate, or add its case to the skipped or left out ones of the result."""
        case = candidate.case
        self.progress.finish(case.key)
        try:
            prepared = candidate.prepare()
            self.runnable.setdefault(prepared.digest, candidate)
            same_method = [line for line in self.lines.values() if line.digest == prepared.digest]
            if any(line.key == case.key for line in same_method):
                return
            if same_method:  # under another name
                line = replace(same_method[0], **case.case_fields())
            elif self._exceeds_limit(prepared):
                reason = f"the limit of {self.options.seconds:g} s"
                self.result.left_out.append(UnmeasuredCase(**case.case_fields(), nfe=prepared.nfe, reason=reason))
                return
            else:
                self._write_if_due(self.progress.expected(prepared.nfe))
                line = self._measured(case, prepared)
        except Exception as error:  # one broken candidate, perhaps a user's, must not stop the others
            reason = error_sentence(error)
            self.result.skipped.append(UnmeasuredCase(**case.case_fields(), reason=reason))
            if case.reference:
                print(f"  {case.name}, the reference, cannot run: {reason}", flush=True)
            return
        self.lines.pop(case.key, None)  # measured by an earlier version of the method
        self.lines[case.key] = line
        self.result.lines = list(self.lines.values())
        self.result.progress = str(self.progress)

    def _exceeds_limit(self, prepared: Prepared) -> bool:
        if self.options.seconds is None:
            return False
        return self.progress.elapsed + self.progress.expected(prepared.nfe) > self.options.seconds

    def _measured(self, case: Case, prepared: Prepared) -> MeasuredCase:
        begin = time.perf_counter()
        line = MeasuredCase(**case.case_fields(), digest=prepared.digest, steps=prepared.steps, nfe=prepared.nfe)
        try:
            line = self._scored(line, prepared)
            outcome = f"{line.nfe:.4g} NFE, {line.quality:.4g} ± {line.standard_error:.2g}"
        except FloatingPointError as error:
            line = replace(line, diverged=error_sentence(error))
            outcome = f"{line.nfe:g} NFE, diverged"
        self.progress.add(line.nfe, time.perf_counter() - begin)
        print(f"  {line}: {outcome} [{self.progress}]", flush=True)
        return line

    def _scored(self, line: MeasuredCase, prepared: Prepared) -> MeasuredCase:
        batch = prepared.draw(range(self.result.samples))
        samples = batch.samples.cpu()
        if not samples.isfinite().all():
            raise FloatingPointError("the samples are not finite")
        score = self.score(samples)
        flow_error = None
        if self.flow is not None and prepared.flow_end is not None:
            flow_error = self.flow.error(prepared.flow_end(self.flow.seeds).cpu())
        return replace(
            line,
            nfe=batch.nfe,
            quality=score.quality,
            standard_error=standard_error(score.half_differences),
            half_differences=score.half_differences,
            more=score.more,
            flow_error=flow_error,
        )

    def time(self, device: torch.device, batch: int, budget: float) -> None:
        """Time the measured cases in interleaved rounds; each draws one batch a round.

        Each reading prepares its candidate anew, untimed: all folded or captured networks together would not fit in
        memory. A case is timed only if all rounds are expected to fit into ``budget`` seconds. The other cases keep
        their earlier times if device, threads and batch size are the same.
        """
        print(f"timing for about {duration(budget)}", flush=True)
        measured = {line.digest: line for line in self.lines.values() if not line.diverged}
        timeable = {digest: measured[digest] for digest in self.runnable if digest in measured}
        begin = time.perf_counter()
        spent: dict[str, float] = {}  # seconds of the last reading with its preparation, by digest

        def read(digest: str) -> float:
            start = time.perf_counter()
            prepared = self.runnable[digest].prepare()
            prepared.warm_up(batch)
            reading = wall_seconds(lambda: prepared.draw(range(batch)), device)
            spent[digest] = time.perf_counter() - start
            return reading

        def rounds(seconds: float) -> int:
            return 1 if seconds > SINGLE_ROUND_SHARE * budget else MIN_ROUNDS

        readings: dict[str, list[float]] = {}
        for digest, line in timeable.items():
            seconds_per_nfe = [seconds / timeable[other].nfe for other, seconds in spent.items()]
            expected = line.nfe * median(seconds_per_nfe or [0.0])
            remaining = sum(rounds(seconds) * seconds for seconds in (*spent.values(), expected)) - sum(spent.values())
            if time.perf_counter() - begin + remaining > budget:
                continue
            try:
                readings[digest] = [read(digest)]
            except Exception as error:  # a second run can fail where the first did not, perhaps for lack of memory
                print(f"  {line} cannot be timed: {error_sentence(error)}", flush=True)
        repeated = {digest: values for digest, values in readings.items() if rounds(spent[digest]) > 1}
        add_rounds(repeated, read, end=begin + budget, least=MIN_ROUNDS, most=MAX_ROUNDS)
        print(f"timed {len(readings)} of {len(timeable)} candidates in {time.perf_counter() - begin:.3g} s", flush=True)
        if not readings:
            return
        timed_on = {"device": self.result.machine, "threads": torch.get_num_threads(), "batch_size": batch}
        for key, line in self.lines.items():
            if values := readings.get(line.digest):
                self.lines[key] = replace(line, seconds_per_1000=1000 * median(values) / batch, timed=len(values))
            elif timed_on != self.result.timed_on:
                self.lines[key] = replace(line, seconds_per_1000=None, timed=0)
        self.result.lines, self.result.timed_on = list(self.lines.values()), timed_on

    def _write_if_due(self, seconds: float) -> None:
        """Write the result unless that would take a large share of the time since the last write and of the next."""
        if self.result.lines and time.monotonic() - self.written + seconds >= self.write_seconds / WRITE_SHARE:
            self.write()

    def write(self) -> None:
        """Rank the cases, and write the result and the page."""
        begin = time.monotonic()
        self.result.ranking = rank(self.result.lines, self.options.budgets, self.result.chance)
        if self.out is not None:
            write_result(self.result, self.out)
        if self.html is not None:
            write_html(self.result, self.html)
        self.written = time.monotonic()
        self.write_seconds = self.written - begin


def load_solvers(path: Path) -> tuple[str, ...]:
    """Run a user's Python file, and return the names of the solvers that it registers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a Python file, raises an exception, registers no solver, or reuses the name of an
            existing solver.
    """
    if not path.is_file():
        raise FileNotFoundError(f"plugin file {str(path)!r} not found")
    if path.suffix != ".py":
        raise ValueError(f"the plugin {str(path)!r} is not a Python file: give a FILE.py")
    module_name, before = f"solver_plugin_{path.stem}", dict(SOLVERS)
    try:
        runpy.run_path(str(path), run_name=module_name)
        names = tuple(name for name in SOLVERS if SOLVERS[name] is not before.get(name))
        for name in names:
            if name in before and before[name].fill.__module__ != module_name:
                raise ValueError(f"it registers {name!r}, the name of an existing solver: choose a new name")
        if not names:
            raise ValueError("it registers no solver: decorate a function with @scoresde_fast.solver(...)")
    except Exception as error:  # user code may raise anything
        SOLVERS.clear()
        SOLVERS.update(before)
        message = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"the plugin {str(path)!r} cannot be used: {message}") from error
    return names

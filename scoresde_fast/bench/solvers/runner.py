# SPDX-License-Identifier: Apache-2.0
"""One line after the other: what it draws and how good that is, within a limit of time."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from scoresde_fast.bench.solvers.contender import Case, Contender, Ready
from scoresde_fast.bench.solvers.converged import ConvergedFlow
from scoresde_fast.bench.solvers.measures import Measure, standard_error
from scoresde_fast.bench.solvers.results import UNTIMED, Results, case_dict
from scoresde_fast.bench.solvers.verdict import describe
from scoresde_fast.bench.waterfall import Say


class Runner:
    """Measures one line after the other, within a time.

    Attributes:
        known: of everything that can run, the first contender by digest.
        skipped, left_out: what was not measured, and why.
    """

    def __init__(
        self, measure: Measure, flow: ConvergedFlow | None, samples: int, seconds: float | None, say: Say
    ) -> None:
        self.measure, self.flow, self.samples, self.seconds, self.say = measure, flow, samples, seconds, say
        self.begin = time.perf_counter()
        self.pace: list[float] = []  # seconds an evaluation of every sample, all that belongs to a line included
        self.known: dict[str, Contender] = {}
        self.skipped: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []

    def line(self, contender: Contender, results: Results) -> dict[str, Any] | None:
        """The contender's line, or None where there is nothing new to keep."""
        case = contender.case
        try:
            ready = contender.ready()
            self.known.setdefault(ready.digest, contender)
            if results.find(ready.digest, case) is not None:
                return None
            same = results.find(ready.digest)
            if same is not None:  # another name of the same steps
                return {**same, **case_dict(case)}
            if self._too_long(ready):
                reason = f"the limit of {self.seconds:g} s"
                self.left_out.append({**case_dict(case), "nfe": ready.nfe, "reason": reason})
                return None
            return self._paced(case, ready)
        except Exception as error:  # one broken contender, a user's perhaps, must not cost the others
            self.skipped.append({**case_dict(case), "reason": sentence(error)})
            if case.reference:
                self.say(f"  {case.name}, the reference, cannot run: {sentence(error)}")
            return None

    def _paced(self, case: Case, ready: Ready) -> dict[str, Any]:
        """The line of a run, which counts among those by which the next are judged too long."""
        begin = time.perf_counter()
        try:
            line = self._measured(case, ready)
        except FloatingPointError as error:
            line = self._diverged(case, ready, sentence(error))
        self.pace.append((time.perf_counter() - begin) / ready.nfe)
        self.say(f"  {describe(line)}: {_outcome(line)}")
        return line

    def _too_long(self, ready: Ready) -> bool:
        if self.seconds is None:
            return False
        expected = median(self.pace) * ready.nfe if self.pace else 0.0
        return time.perf_counter() - self.begin + expected > self.seconds

    def _measured(self, case: Case, ready: Ready) -> dict[str, Any]:
        ready.warm_up()
        drawn = ready.draw(range(self.samples))
        samples = drawn.samples.cpu()
        if not samples.isfinite().all():
            raise FloatingPointError("the samples are not finite")
        score = self.measure(samples)
        error = None
        if self.flow is not None and ready.flow_end is not None:
            error = self.flow.error(ready.flow_end(self.flow.seeds).cpu())
        return {
            **case_dict(case),
            "digest": ready.digest,
            "steps": ready.steps,
            "nfe": drawn.nfe,
            **UNTIMED,
            "quality": score.quality,
            "standard_error": standard_error(score.half_differences),
            "half_differences": score.half_differences,
            "more": score.more,
            "flow_error": error,
            "diverged": None,
        }

    def _diverged(self, case: Case, ready: Ready, reason: str) -> dict[str, Any]:
        known = {"digest": ready.digest, "steps": ready.steps, "nfe": ready.nfe, "diverged": reason}
        unknown = ("quality", "standard_error", "half_differences", "more", "flow_error")
        return {**case_dict(case), **known, **UNTIMED, **dict.fromkeys(unknown)}


def _outcome(line: dict[str, Any]) -> str:
    if line["diverged"]:
        return f"{line['nfe']:g} NFE, diverged"
    return f"{line['nfe']:.4g} NFE, {line['quality']:.4g} ± {line['standard_error']:.2g}"


def sentence(error: Exception) -> str:
    """What an error says, on one line; with its type where its words are not meant for the user."""
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {said}"

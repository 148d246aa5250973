# SPDX-License-Identifier: Apache-2.0
"""What the lines cost: each draws one batch in turn, round after round, so that a busy minute is no line's own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from scoresde_fast.bench.solvers.contender import Contender
from scoresde_fast.bench.solvers.runner import sentence
from scoresde_fast.bench.solvers.verdict import Line, describe
from scoresde_fast.bench.timing import add_rounds, wall_seconds
from scoresde_fast.bench.waterfall import Say

LEAST, MOST = 3, 9
"""Rounds."""
ONCE = 0.1
"""A line whose turn takes more than this share of the time is in the first round alone."""


def line_times(
    known: Mapping[str, Contender],
    lines: Sequence[Line],
    batch: int,
    device: torch.device,
    seconds: float,
    say: Say,
) -> dict[str, tuple[float, int]]:
    """Median seconds for 1000 samples, and of how many rounds, by digest.

    A contender is made anew for every turn, untimed: a thousand folded or captured networks would not fit in memory.

    Args:
        known: contenders by digest, those first that are to be timed first.
        lines: what was measured; only what ended well is timed.
        batch: samples that a line draws in its turn.
        device: where.
        seconds: for all.  A line is timed only if by what others took all its rounds fit.
        say: hears of progress.
    """
    wanted = {line["digest"]: line for line in lines if line["quality"] is not None and line["digest"] in known}
    begin = time.perf_counter()
    spent: dict[str, float] = {}

    def read(digest: str) -> float:
        start = time.perf_counter()
        ready = known[digest].ready()
        ready.warm_up()
        reading = wall_seconds(lambda: ready.draw(range(batch)), device)
        spent[digest] = time.perf_counter() - start
        return reading

    readings: dict[str, list[float]] = {}
    for digest in (digest for digest in known if digest in wanted):
        line = wanted[digest]
        expected = line["nfe"] * median([took / wanted[other]["nfe"] for other, took in spent.items()] or [0.0])
        to_come = sum(_rounds(took, seconds) * took for took in (*spent.values(), expected)) - sum(spent.values())
        if time.perf_counter() - begin + to_come > seconds:
            continue
        try:
            readings[digest] = [read(digest)]
        except Exception as error:  # what was drawn once can fail here, for want of memory perhaps
            say(f"  {describe(line)} cannot be timed: {sentence(error)}")
    repeated = {digest: taken for digest, taken in readings.items() if _rounds(spent[digest], seconds) > 1}
    add_rounds(repeated, read, begin + seconds, LEAST, MOST)
    say(f"timed {len(readings)} of {len(wanted)} lines in {time.perf_counter() - begin:.3g} s")
    return {digest: (1000 * median(taken) / batch, len(taken)) for digest, taken in readings.items()}


def _rounds(turn: float, seconds: float) -> int:
    """How often a line is timed in any case, by the seconds of its turn."""
    return 1 if turn > ONCE * seconds else LEAST

# SPDX-License-Identifier: Apache-2.0
"""The number of steps that fits a wall-clock time on this device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from scoresde_fast.errors import require_integer, require_positive
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.solver_choice import FEW_STEPS
from scoresde_fast.tuned import Tuned, is_tuned

TRIAL_STEPS = 5
"""Number of steps of the run that is timed, about."""
LEAST_STEPS, MOST_STEPS = 2, 1000
ROUNDS = 3
"""Number of timed runs, of which the fastest counts: others are slowed down by chance."""


def steps_within(model: ScoreFunction, seconds: float, images: int = 1, **options: Any) -> int:
    """Return the largest number of steps with which sampling is expected to take at most ``seconds`` on this device.

    Short runs are timed after a first one, which prepares the network; the preparation is not counted.

    Args:
        model: the model.
        seconds: the time for all images.
        images: the number of images.
        options: those of `Sampler`, without steps.  With solver="tuned" the number is one that the model is tuned for.

    Raises:
        ValueError: even the smallest number of steps takes longer; or as `Sampler`.
    """
    require_positive("seconds", seconds)
    require_integer("images", images, 1)
    solver = options.get("solver")
    choices: Sequence[int] = range(LEAST_STEPS, FEW_STEPS if solver is None else MOST_STEPS + 1)
    if isinstance(solver, str) and is_tuned(solver):
        choices = sorted(Tuned.named(solver, model).flow)
    trial = min(choices, key=lambda steps: abs(steps - TRIAL_STEPS))
    sampler = Sampler(model, steps=trial, **options)
    batch = min(images, sampler.batch_size)
    sampler.sample(batch)
    step = min(_duration(sampler, batch) for _ in range(ROUNDS)) * math.ceil(images / batch) / trial
    fitting = [steps for steps in choices if steps * step <= seconds]
    if not fitting:
        raise ValueError(
            f"the time budget is {seconds:g} s, but {images} image{'s' if images > 1 else ''} in {choices[0]} steps "
            f"take {choices[0] * step:.2g} s: allow more time, or sample fewer images"
        )
    return max(fitting)


def _duration(sampler: Sampler, images: int) -> float:
    """Return the seconds that a batch of images takes."""
    start = perf_counter()
    sampler.sample(images)[:1].sum().item()  # waits for a GPU
    return perf_counter() - start

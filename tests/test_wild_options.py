# SPDX-License-Identifier: Apache-2.0
"""Options of wild types and values: each is accepted, or refused in one sentence that names it."""

from __future__ import annotations

import math
import random
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.flow.options import AdaptiveOptions, FlowOptions
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.run_options import RunOptions, names
from scoresde_fast.sdes import CLDSDE, VESDE, VPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions

MODELS = [sf.GaussianMixture.gaussian(sde, 0.3, 0.5, (1, 2, 2)) for sde in (VESDE(), VPSDE(), CLDSDE())]
WILD: list[Any] = [
    True, False, 0, 1, 2, 7, -1, 10**30, 10**5000, 0.0, 0.5, 1.0, -0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf,
    "", "x", "nan", "ddim", "DDIM", "1,0.5,0.1", "0.1:0.3:2:5", "auto", "none", "a\nb", b"x", [], [1], [1, 0.5, 0.1],
    ["sigmas", [1, 0.5]], (), (0.1, 0.3, 2, 5), [(0.1, 0.3, 2, 5)], [(0.1, 0.3, 10**9, 10**9)], {}, {"a": 1}, {1},
    object(),
    np.float32(0.5), np.int64(3), np.bool_(True), np.array(3), np.array([1, 0.5, 0.1]), np.eye(2), torch.tensor(3),
    torch.tensor([1, 0.5, 0.1]), torch.float32, torch.device("cpu"), 1j, Fraction(1, 2), len, "cuda", "cpu:99",
]  # fmt: skip


def refusal(call: Any, options: dict[str, Any]) -> str | None:
    """Return the message with which ``call`` refuses the options, None if it takes them; other errors pass."""
    try:
        call(**options)
    except (ValueError, TypeError, RuntimeError) as error:
        message = str(error)
        assert "\n" not in message and 10 < len(message) < 600, message
        assert not isinstance(error, TypeError | RuntimeError) or "backend" in options, repr(error)
        return message
    return None


@pytest.mark.parametrize("name", names(SolverOptions, AdaptiveOptions, RunOptions))
def test_wild_values(name: str) -> None:
    """Each wild value of each option alone is accepted, or refused in a sentence that names the option."""
    for value in WILD:
        for solver in ("ddim", "rk45", "pc"):
            options: dict[str, Any] = {"steps": 3} if solver != "rk45" else {}
            options |= {"solver": solver, name: value}
            message = refusal(lambda **options: sf.Sampler(MODELS[1], **options), options)
            if message is not None:
                assert name in message.replace("time grid", "grid") or "solver" in message, (name, value, message)


@pytest.mark.parametrize("name", names(FlowOptions))
def test_wild_values_of_the_flow(name: str) -> None:
    """The same holds for the options of codes and likelihoods."""
    for value in WILD:
        message = refusal(
            lambda **options: ProbabilityFlow(MODELS[1], to_data=False, **options), {"steps": 3, name: value}
        )
        assert message is None or name in message, (name, value, message)


def test_wild_sets_of_options(run_seed: int) -> None:
    """A thousand sets of random options end in a sampler or in one sentence, never in another error."""
    generator, known = random.Random(run_seed), [*SOLVERS, "pc", "rk45", "ggf"]
    option_names = [field.name for group in (SolverOptions, AdaptiveOptions, RunOptions) for field in fields(group)]
    for _ in range(1000):
        options = {name: generator.choice(WILD) for name in generator.sample(option_names, generator.randint(1, 4))}
        if generator.random() < 0.8:
            options["solver"] = generator.choice(known)
        if generator.random() < 0.7:
            options["steps"] = generator.choice([2, 3, 5])
        refusal(lambda **options: sf.Sampler(generator.choice(MODELS), **options), options)

# SPDX-License-Identifier: Apache-2.0
"""Parallel-in-time sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.bench.measures import mixture
from scoresde_fast.cli import main
from scoresde_fast.loop.parallel_runner import ParallelRunner
from scoresde_fast.loop.run_monitor import NonFiniteError

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one-step": ("mixture-vp", {"solver": "ddim", "steps": 20}),
    "noise": ("mixture-ve", {"solver": "ancestral", "steps": 30}),
    "multistep": ("mixture-vp", {"solver": "unipc", "steps": 12, "order": 3}),
    "stages": ("mixture-vp", {"solver": "heun", "steps": 8, "churn": 4.0}),
    "restart": ("mixture-vp", {"solver": "dpmpp_2m", "steps": 8, "restart": "0.1:0.3:2:3"}),
    "langevin": ("mixture-vp", {"solver": "pc", "steps": 30}),
    "pairs": ("mixture-cld", {"solver": "sscs", "steps": 20}),
    "pairs, multistep": ("mixture-cld", {"solver": "gddim", "steps": 12, "order": 3}),
    "many inputs": ("mixture-betas", {"solver": "seeds", "steps": 6}),
}


@pytest.mark.parametrize("window", [4, 100])
@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)
def test_equals_one_step_after_another(name: str, options: dict[str, Any], window: int) -> None:
    """Without tolerance the samples are those of the run in order, up to rounding; each row is a round at most."""
    model = mixture(name)
    samples = sf.Sampler(model, **options).sample(3)
    parallel = sf.Sampler(model, parallel=window, parallel_tolerance=0.0, **options)
    assert torch.allclose(parallel.sample(3), samples, atol=2e-4)
    assert isinstance(parallel.runner, ParallelRunner)
    assert all(rounds <= len(parallel.table.rows) for rounds in parallel.runner.rounds(range(3)))


def test_fewer_rounds_than_evaluations() -> None:
    """Predictions change slowly, so the rounds are far fewer than the steps, with an error of the tolerance's size."""
    model = mixture("mixture-vp")
    options: dict[str, Any] = {"solver": "ddim", "steps": 100}
    sampler = sf.Sampler(model, parallel=50, parallel_tolerance=1e-3, **options)
    assert sampler.nfe is None
    difference = sampler.sample(8) - sf.Sampler(model, **options).sample(8)
    assert isinstance(sampler.runner, ParallelRunner)
    assert max(sampler.runner.rounds(range(8))) <= 50
    assert min(sampler.evaluations(range(8))) > 100
    assert difference.abs().max() < 0.05


def test_samples_do_not_depend_on_the_batch() -> None:
    """Each seed has a window of its own."""
    sampler = sf.Sampler(sf.load("digits-vp"), "ddim", 10, parallel=6)
    together = sampler.sample([5, 3, 4])
    assert torch.equal(together[1], sampler.sample([3])[0])
    assert sampler.evaluations([3, 4])[0] >= 10


def test_inputs_and_conditions() -> None:
    """Inputs of the network and conditions on the state are those of each seed."""

    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor, index: Tensor, y: Tensor) -> Tensor:
            return self.conv(x) * 0.1 + y.view(-1, 1, 1, 1) / 10

    model = sf.wrap(Labelled(), sf.Betas.linear(1000), prediction="epsilon", shape=(3, 8, 8))
    condition = sf.Projection(np.zeros((3, 8, 8)), np.arange(64).reshape(8, 8) % 2 == 0)
    options: dict[str, Any] = {"solver": "ddim", "steps": 12, "inputs": {"y": [0.0, 5.0]}, "condition": condition}
    plain = sf.Sampler(model, **options).sample(2)
    parallel = sf.Sampler(model, parallel=5, parallel_tolerance=0.0, **options).sample(2)
    assert torch.allclose(plain, parallel, atol=1e-4)
    assert not torch.allclose(parallel[0], parallel[1], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": 1}, "parallel is 1; it must be an integer of at least 2"),
        ({"parallel": 4, "parallel_tolerance": 1.0}, "it must be a number from 0 to less than 1"),
        ({"parallel_tolerance": 0.1}, "parallel is not given"),
        ({"parallel": 4, "cache_interval": 2}, "needs the steps one after another: leave out one of them"),
        ({"parallel": 4, "langevin_norm": "batch"}, "depends on the batch: leave out one of them"),
    ],
    ids=["window", "tolerance", "tolerance-alone", "caching", "batch-norm"],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """Options that exclude each other are refused in one sentence."""
    with pytest.raises(ValueError) as error:
        sf.Sampler(mixture("mixture-vp"), **{"solver": "pc", "steps": 30, **options})
    assert message in str(error.value)


def test_callbacks_are_refused() -> None:
    """There are no steps one after another that a callback could see."""
    sampler = sf.Sampler(mixture("mixture-vp"), "ddim", 5, parallel=3)
    with pytest.raises(ValueError, match="no callback and no trajectory"):
        sampler.sample(2, trajectory=True)
    with pytest.raises(ValueError, match="seed 7 has not been sampled"):
        sampler.evaluations([7])


def test_failure_names_the_step() -> None:
    """A network that returns NaN ends the run with the step and its time."""
    model = sf.wrap(
        lambda x, index: torch.where(index.view(-1, 1, 1, 1) < 500, torch.nan, 0.1 * x),
        sf.Betas.linear(1000), prediction="epsilon", shape=(1, 4, 4),
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="not finite after step"):
        sf.Sampler(model, "ddim", 10, parallel=4).sample(1)


def test_sets_of_samples(tmp_path: Path) -> None:
    """The command samples, continues and verifies a set."""
    command = [
        "sample",
        "digits-vp",
        "--solver",
        "ddim",
        "--steps",
        "6",
        "--parallel",
        "4",
        "--out",
        str(tmp_path / "set"),
    ]
    assert main([*command, "--seeds", "0-1"]) == 0
    assert main([*command, "--seeds", "0-2"]) == 0
    assert main(["verify", str(tmp_path / "set")]) == 0

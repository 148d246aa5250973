# SPDX-License-Identifier: Apache-2.0
"""`Step`: what a callback sees of a run, and `Trajectory`: all steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde_fast.sdes import Array


@dataclass(frozen=True, eq=False)
class Step:
    """The samples of one batch after a step.

    The tensors are on the device of the run, in the range of the model's data.  Reading their values makes the host
    wait for the device.

    Attributes:
        step: the number of steps done, from 1.
        steps: the number of all steps, with those of correctors and denoising.
        t: the time of the evaluation.
        sigma: std / scale at t.
        seeds: the seeds of the samples.
        x: (B, *state_shape), the states.
    """

    step: int
    steps: int
    t: float
    sigma: float
    seeds: Sequence[int]
    x: Tensor
    _before: Tensor = field(repr=False)
    _output: Tensor | None = field(repr=False)
    _factors: Callable[[], Array] = field(repr=False)

    @property
    def denoised(self) -> Tensor | None:
        """The estimate E[x(0) | x(t)] (B, C, H, W) from the evaluation of this step; None for a step without one.

        Raises:
            ValueError: a CLD model returns only the velocity's score, see `CLDSDE.joint_score`.
        """
        if self._output is None:
            return None
        *part_factors, output_factor = self._factors().tolist()
        estimate = output_factor * self._output
        for factor, part in zip(part_factors, self._before.chunk(len(part_factors), dim=1), strict=True):
            estimate = estimate + factor * part
        return estimate


Callback = Callable[[Step], None]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """All steps of a run, on the CPU, in the range of the model's data.

    Attributes:
        times: (S,) float64, the time of each evaluation.
        states: (S, N, *state_shape), the states after each step.
        denoised: (S, N, C, H, W), the estimates E[x(0) | x(t)]; NaN for a step without an evaluation.
    """

    times: Tensor
    states: Tensor
    denoised: Tensor


class Recorder:
    """A callback that records the steps of one batch after another."""

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        self._image_shape = image_shape
        self._batches: list[list[Step]] = []

    def __call__(self, step: Step) -> None:
        if step.step == 1:
            self._batches.append([])
        self._batches[-1].append(step)

    def trajectory(self) -> Trajectory:
        """Return the steps of all batches."""
        times = torch.tensor([step.t for step in self._batches[0]], dtype=torch.float64, device="cpu")
        states, denoised = [], []
        for steps in zip(*self._batches, strict=True):
            states.append(torch.cat([step.x.cpu() for step in steps]))
            denoised.append(torch.cat([self._estimate(step) for step in steps]))
        return Trajectory(times, torch.stack(states), torch.stack(denoised))

    def _estimate(self, step: Step) -> Tensor:
        estimate = step.denoised
        return (
            torch.full((len(step.x), *self._image_shape), torch.nan, dtype=torch.float32, device="cpu")
            if estimate is None
            else estimate.cpu()
        )

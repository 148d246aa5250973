# SPDX-License-Identifier: Apache-2.0
"""A model's probability flow between data and prior: any number of samples, in batches on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.devices import usable_device
from scoresde_fast.fingerprint import describe_model
from scoresde_fast.flow.control import Fixed, Tolerances
from scoresde_fast.flow.options import FlowOptions, Probes
from scoresde_fast.flow.runner import Flowed, FlowRunner
from scoresde_fast.loop.batch_size import fitting_batch
from scoresde_fast.loop.batches import Batches
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.run_options import names, split_options
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers import make_grid


class ProbabilityFlow:
    """What encoding, decoding and likelihoods share.

    Args:
        model: any `ScoreFunction` of continuous time; it is moved to the device and put in evaluation mode.
        to_data: from T down to the data's time, else up.
        probes: how the divergence is found; None: it is not wanted.
        usual: options that hold where the user gives no other.
        options: those of `FlowOptions` and `RunOptions`.

    Raises:
        TypeError: there is no option of a name.
        ValueError: an option is out of its range, or the model is not one of continuous time.
    """

    def __init__(
        self,
        model: ScoreFunction,
        *,
        to_data: bool,
        probes: Probes | None = None,
        usual: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        given, self.run_options = split_options(options, names(FlowOptions))
        self.options = FlowOptions(**{**(usual or {}), **given})
        self.device = usable_device(self.run_options.device)
        self.model = model.to(self.device).eval()
        low, high = self.options.eps, model.sde.T
        if not 0 < low < high:
            raise ValueError(f"eps is {low!r}; it must be greater than 0 and smaller than {high:g}")
        start, end = (high, low) if to_data else (low, high)
        control = _control(self.options, model.sde, to_data=to_data)
        self.runner = FlowRunner(self.model, self.device, self.run_options, control, start, end, probes=probes)
        size = self.run_options.batch_size
        self.batch_size = size if size != "auto" else fitting_batch(self.model, self.runner)

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample depends on the others of its batch."""
        return self.runner.batch_dependent

    def run(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> Flowed:
        """Of states (N, *state_shape), whose random numbers are those of the seeds; what it gives is on the CPU.

        Raises:
            ValueError: ``strict``, and two samples have one seed.
            IntegrationError: NaN or infinity, or tolerances that cannot be met; holds what was reached in its batch.
        """
        strict, runner = self.run_options.strict, self.runner
        if strict and len(set(seeds)) < len(seeds):
            raise ValueError("strict=True gives every seed a place of its own: give each sample another seed")

        def work(rows: Sequence[int], on_step: OnStep | None) -> Tensor:
            begin = states[list(rows)].to(self.device, torch.float64)
            flowed = runner.solve(begin, [seeds[row] for row in rows], on_step)
            return torch.cat([flowed.states.flatten(1), flowed.divergence, flowed.evaluations[:, None]], dim=1).cpu()

        batches = Batches(runner, work, self.model.image_shape, strict=strict)
        full = len(states) if strict else min(self.batch_size, len(states))
        size, probes = math.prod(self.model.state_shape), runner.probes.count if runner.probes else 0
        results = [torch.zeros(0, size + probes + 1, dtype=torch.float64)]
        with runner.tangents():
            for start in range(0, len(states), max(1, full)):
                rows = range(start, min(start + full, len(states)))
                results.append(batches.run(rows, [seeds[row] for row in rows], full, on_step))
        flowed, divergence, evaluations = torch.cat(results).split([size, probes, 1], dim=1)
        return Flowed(flowed.view(len(states), *self.model.state_shape), evaluations[:, 0].long(), divergence)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the numbers, as plain values."""
        run = self.run_options
        return {
            "model": describe_model(self.model),
            **asdict(self.options),
            "strict": run.strict,
            "run_seed": run.run_seed,
            "precision": self.runner.precision,
            **({"batch_size": self.batch_size} if self.batch_dependent else {}),
        }


def _control(options: FlowOptions, sde: SDE, *, to_data: bool) -> Tolerances | Fixed:
    """Tolerances, or the times of the fixed steps, which go down to the data or up from it."""
    if options.steps is None:
        return Tolerances(options.rtol, options.atol, options.error_norm)
    grid = make_grid(options.grid, sde, options.steps, options.eps, published=False)
    down = np.append(grid.times, options.eps)
    return Fixed(down if to_data else down[::-1].copy())

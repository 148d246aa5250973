# SPDX-License-Identifier: Apache-2.0
"""`Peer`: a solver of another library, with the interface by which it asks a network for predictions.

The states of a peer are x / scale, whose marginals given x(0) are N(x(0), s^2) with the noise-to-signal ratio
s = std / scale, so that a solver of any library runs on every `ScalarSDE`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde_fast.solvers.noise_schedule import NoiseSchedule


class Predictions(Protocol):
    """Predictions of a network at states ``x`` (B, ...) over the scale, with the noise-to-signal ratio ``s``."""

    def data(self, x: Tensor, s: float) -> Tensor:
        """Return x0 = E[x(0) | x]."""

    def noise(self, x: Tensor, s: float) -> Tensor:
        """Return e = (x - x0) / s."""


Run = Callable[[Predictions, Tensor, NoiseSchedule, int], Tensor]
"""Maps predictions, states over the scale, the schedule at n + 1 edges and a seed to the states at the last edge."""


@dataclass(frozen=True)
class Peer:
    """A solver of another library in one form.

    Attributes:
        library: name of the library.
        solver: name of the solver there.
        run: runs it.
        form: options other than order and end, as a label.
        order: its order, if it has several.
        end: how it lowers the order at the last steps, if there is a choice.
        deterministic: whether it draws no noise.
        default: whether this is the library's default form.
        evaluations: returns the network evaluations of n steps.
        multiple: the number of steps must be a multiple of this.
        least: the smallest number of steps.
        grid: the only time grid that it has; None if it runs on all.
    """

    library: str
    solver: str
    run: Run = field(compare=False)
    form: str = ""
    order: int | None = None
    end: str = ""
    deterministic: bool = True
    default: bool = False
    evaluations: Callable[[int], int] = field(default=lambda steps: steps, compare=False)
    multiple: int = 1
    least: int = 1
    grid: str | None = None

    @property
    def full_solver(self) -> str:
        """Library and solver."""
        return f"{self.library} {self.solver}"

    @property
    def name(self) -> str:
        """Library, solver and form."""
        return f"{self.full_solver}, {self.form}" if self.form else self.full_solver

    @property
    def options(self) -> Mapping[str, Any]:
        """Options that the name does not contain."""
        return {"end": self.end} if self.end else {}

    def __str__(self) -> str:
        order = f"order {self.order}" if self.order is not None else ""
        details = ", ".join(part for part in (order, self.end) if part)
        return f"{self.name} ({details})" if details else self.name

    def __call__(self, predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
        """Run it, without the warnings of its library, such as those about deprecated forms."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.run(predictions, x, schedule, seed)

    def steps_within(self, evaluations: int) -> int:
        """Return the largest number of steps that takes at most ``evaluations``; 0 if there is none."""
        steps = 0
        while self.evaluations(steps + self.multiple) <= evaluations:
            steps += self.multiple
        return steps if steps >= self.least else 0

    @property
    def shortest(self) -> int:
        """The smallest number of steps with which it runs."""
        return max(self.least, self.multiple)


class Probe:
    """Predictions of a simple analytic network, which records the noise-to-signal ratios of the evaluations."""

    def __init__(self) -> None:
        self.ratios: list[float] = []

    def data(self, x: Tensor, s: float) -> Tensor:
        """Return x0."""
        return x - float(s) * self.noise(x, s)

    def noise(self, x: Tensor, s: float) -> Tensor:
        """Return s tanh(x) / (1 + s)."""
        self.ratios.append(float(s))
        return torch.tanh(x) * (float(s) / (1 + float(s)))


@dataclass(frozen=True)
class Trace:
    """What a run of a peer asks for: the noise-to-signal ratio of each evaluation, and a hash of the method."""

    ratios: tuple[float, ...]
    digest: str

    @classmethod
    def of(cls, peer: Peer, schedule: NoiseSchedule) -> Trace:
        """Run a peer on a few numbers; two forms that compute the same have the same hash."""
        probe = Probe()
        x = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64).view(-1, 1, 1, 1) * schedule.noise_to_signal[0]
        end = peer(probe, x, schedule, 0)
        if not end.isfinite().all():
            raise ValueError("the result on a smooth network is not finite: the steps are too long for this solver")
        if len(probe.ratios) != peer.evaluations(len(schedule.times) - 1):
            raise ValueError(
                f"{len(schedule.times) - 1} steps took {len(probe.ratios)} evaluations, not the expected "
                f"{peer.evaluations(len(schedule.times) - 1)}"
            )
        sha256 = hashlib.sha256(end.double().numpy().tobytes())
        sha256.update(repr((probe.ratios, schedule.times[-1], peer.deterministic)).encode())
        return cls(tuple(probe.ratios), sha256.hexdigest())

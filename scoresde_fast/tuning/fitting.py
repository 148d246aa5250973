# SPDX-License-Identifier: Apache-2.0
"""Least-squares weights of a linear multistep method, fitted step by step to the converged flow.

A step of the fitted method is a first-order step plus a combination of the last outputs,

    x' = state x + output d_0 + sum_j w_j d_j,

whose weights w_j minimise the mean square distance of x' from the converged flow at the end of the step.  Each step
starts from the states that the steps before it reached, so that it also corrects their errors.  The last step ends at
the denoised image.  The idea is that of optimal linear subspace search (Duan et al. 2023, equation 10), where the
coefficient of x is fitted too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.solvers.weights import Weights
from scoresde_fast.tuning.flow import ConvergedFlow, FirstOrderStep, first_order_steps

RIDGE = 1e-5
"""The squared weights are added to the square distance with this factor, so that similar outputs do not cancel."""

Path = tuple[int, ...]
"""The indices of a grid's times among the fine times of a `ConvergedFlow`."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run with fitted weights, up to one of its times.

    Attributes:
        x: (N, P, D) the states.
        outputs: the last outputs (N, P, D), newest first.
        weights: the weights of the steps so far, as in `SolverOptions.weights`.
    """

    x: Tensor
    outputs: tuple[Tensor, ...]
    weights: Weights


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted method: its grid, the number of outputs that it combines, its weights and its root mean square error."""

    path: Path
    history: int
    weights: Weights
    error: float


class Fitting:
    """Fits methods to a flow; runs that begin with the same times share their first steps."""

    def __init__(self, flow: ConvergedFlow) -> None:
        self.flow = flow
        self._runs: dict[tuple[int, Path], Run] = {}

    def fit(self, path: Path, history: int) -> Fit:
        """Return the method on the grid ``path`` that combines ``history`` outputs."""
        steps = first_order_steps(self.flow.sde, self.flow.times[list(path)])
        runs = {(history, path[:1]): Run(self.flow.states[0], (), ())}
        for k, step in enumerate(steps):
            key = history, path[: k + 2]
            last = k + 1 == len(steps)
            run = None if last else self._runs.get(key)
            runs[key] = self._advanced(runs[history, path[: k + 1]], step, path, k, history) if run is None else run
        self._runs = runs
        run = runs[history, path]
        return Fit(path, history, run.weights, error(run.x, self.flow.images))

    def _advanced(self, run: Run, step: FirstOrderStep, path: Path, k: int, history: int) -> Run:
        """Return the run after one more step, with the weights that are best for it."""
        flow = self.flow
        outputs = (flow.output(run.x, step, path[k]), *run.outputs)[:history]
        x = step.state @ run.x + step.output @ outputs[0]
        target = flow.images if k + 2 == len(path) else flow.states[path[k + 1]]
        weights = least_squares(torch.cat(outputs, dim=1), target - x)
        parts = len(step.state)
        flat = weights.reshape(parts, len(outputs), parts).transpose(0, 1).flatten().tolist()
        return Run(x + weights.float() @ torch.cat(outputs, dim=1), outputs, (*run.weights, tuple(flat)))


def least_squares(features: Tensor, targets: Tensor) -> Tensor:
    """Return W (P, F), float64, for which W features (N, F, D) is nearest to the targets (N, P, D)."""
    features, targets = features.double(), targets.double()
    count = len(features) * features.shape[-1]
    gram = torch.einsum("nid,njd->ij", features, features) / count
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, torch.einsum("nid,npd->ip", features, targets) / count).T


def error(x: Tensor, images: Tensor) -> float:
    """Return the root mean square error of the data part of states (N, P, D)."""
    return float((x[:, 0] - images[:, 0]).double().square().mean().sqrt())

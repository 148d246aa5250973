# SPDX-License-Identifier: Apache-2.0
"""Grids from the geometry of a model's flow (GITS, Chen et al. 2024): the cheapest path by dynamic programming.

The cost of a step between two times is the distance of its first-order result from the converged flow, with the
converged state at its start.  A grid of n steps is the path from T to eps of n steps with the smallest total cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scoresde_fast.errors import shown
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import Array
from scoresde_fast.tuning.fitting import Path
from scoresde_fast.tuning.flow import ConvergedFlow, first_order_steps

SEEDS = 32
"""Number of seeds over which costs are averaged."""
STRIDE = 2
"""Every second fine time can be an edge; the number of costs is quadratic in that of edges."""


def gits(model: ScoreFunction, steps: int, **network: Any) -> Array:
    """Return the times (steps + 1,) of GITS, from T to eps, for the option ``grid``.

    Args:
        model: the model, whose converged flow is computed for a few seeds.
        steps: number of steps.
        network: ``inputs``, ``guidance`` and ``device`` as of `Sampler`.

    Raises:
        ValueError: there are too many steps, or as `Sampler`.
    """
    flow = ConvergedFlow(model, range(SEEDS), **network)
    return flow.times[list(Gits(flow).path(steps))]


class Gits:
    """The costs of steps of a flow.

    Args:
        flow: the converged flow.
        stride: every ``stride``-th fine time can be an edge.

    Attributes:
        nodes: the indices (n,) of the times between which steps go, among the flow's times.
        costs: (n, n), of the steps from each node to each later one; infinite for others.
    """

    def __init__(self, flow: ConvergedFlow, stride: int = STRIDE) -> None:
        last = len(flow.times) - 1
        self.nodes = np.unique(np.append(np.arange(0, last, stride), last))
        self.costs = np.full((len(self.nodes), len(self.nodes)), np.inf)
        states = flow.states[:, :SEEDS]
        for i, start in enumerate(self.nodes[:-1]):
            output = None
            for j, end in enumerate(self.nodes[i + 1 :], i + 1):
                (step,) = first_order_steps(flow.sde, flow.times[[start, end]])
                x = states[start]
                output = flow.output(x, step, start) if output is None else output
                distance = step.state @ x + step.output @ output - states[end]
                self.costs[i, j] = distance[:, 0].square().mean().sqrt()

    def path(self, steps: int) -> Path:
        """Return the cheapest path of ``steps`` steps, as indices of the flow's times.

        Raises:
            ValueError: the path needs more nodes than there are.
        """
        if not 1 <= steps < len(self.nodes):
            raise ValueError(f"steps is {shown(steps)}; for GITS it must be from 1 to {len(self.nodes) - 1}")
        remaining = self.costs[:, -1]  # the cost from each node to the last
        choices = []
        for _ in range(steps - 1):
            totals = self.costs + remaining
            choices.append(totals.argmin(1))
            remaining = totals.min(1)
        nodes = [0]
        for choice in reversed(choices):
            nodes.append(int(choice[nodes[-1]]))
        return tuple(int(self.nodes[node]) for node in (*nodes, -1))

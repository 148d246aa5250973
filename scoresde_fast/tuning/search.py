# SPDX-License-Identifier: Apache-2.0
"""Search for the grid and the number of combined outputs with which a fitted method is nearest to the converged flow.

It begins with the grids that exist, with two outputs, and with other numbers of outputs on the best of them.  Then it
moves one time after another, as long as that lowers the error: by many fine steps at first, by one at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import numpy as np

from scoresde_fast.sdes import Array
from scoresde_fast.solvers.table import HISTORY
from scoresde_fast.tuning.fitting import Fit, Path

MOVES = (8, 4, 2, 1)
"""Distances by which times are moved, in fine steps."""
FIRST_HISTORY = 2
"""The number of outputs with which grids are compared."""


def improvements(fit: Callable[[Path, int], Fit], beginnings: Iterable[Path]) -> Iterator[Fit]:
    """Yield the best fit so far after each fit, until no move of a time improves it.

    Args:
        fit: returns the method on a grid that combines a number of outputs.
        beginnings: grids with the same number of steps, at least one.
    """
    first, *others = beginnings
    yield (best := fit(first, FIRST_HISTORY))

    def better(path: Path, history: int) -> Fit:
        return min(best, fit(path, history), key=lambda each: each.error)

    for path in others:
        yield (best := better(path, FIRST_HISTORY))
    for history in range(1, HISTORY + 1):
        if history != FIRST_HISTORY:
            yield (best := better(best.path, history))
    for distance in MOVES:
        improved = True
        while improved:
            before = best
            for node, move in product(range(1, len(best.path) - 1), (-distance, distance)):
                while (changed := moved(best.path, node, move)) is not None:
                    previous = best
                    yield (best := better(changed, best.history))
                    if best is previous:
                        break
            improved = best is not before


def moved(path: Path, node: int, move: int) -> Path | None:
    """Return the path with the time of a node moved by fine steps; None if it would reach a neighbour."""
    index = path[node] + move
    if not path[node - 1] < index < path[node + 1]:
        return None
    return (*path[:node], index, *path[node + 1 :])


def nearest_path(times: Array, edges: Array) -> Path:
    """Return the indices of the times (n,) nearest to falling ``edges`` (m,), all different.

    Raises:
        ValueError: there are fewer times than edges.
    """
    if len(edges) > len(times):
        raise ValueError(f"{len(edges) - 1} steps are more than the {len(times) - 1} between which tune chooses")
    position = np.interp(-np.log(edges), -np.log(times), np.arange(len(times)))
    lowest = np.arange(len(edges))
    index = np.maximum.accumulate(np.round(position).astype(int) - lowest) + lowest
    return tuple(int(i) for i in np.minimum(index, len(times) - len(edges) + lowest))

# SPDX-License-Identifier: Apache-2.0
"""`tune`: the best solvers for a model with few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from scoresde_fast.bench.measures import Measure
from scoresde_fast.errors import require_integer, require_positive
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.solver_choice import solver_options
from scoresde_fast.solvers import SolverOptions, grids_of, make_grid
from scoresde_fast.tuned import Tuned, TunedSolver
from scoresde_fast.tuning.data import ROUNDS, distance_to_data, nearest_to_data
from scoresde_fast.tuning.fitting import Fitting, Path
from scoresde_fast.tuning.fitting import error as error_of
from scoresde_fast.tuning.flow import FINE_STEPS, ConvergedFlow, first_order_options
from scoresde_fast.tuning.gits import Gits
from scoresde_fast.tuning.search import improvements, nearest_path

NFE = (5, 8, 10, 15, 20)
"""Numbers of evaluations by default."""
SECONDS = 300.0
"""Duration by default."""
SEEDS, UNSEEN = range(128), range(128, 256)
"""Seeds for the choice by the flow, and those on which the errors of the chosen solvers are measured."""
DATA_UNSEEN = range(ROUNDS[-1], ROUNDS[-1] + 1024)
"""Seeds on which the distances to the data of the chosen solvers are measured."""
MOST_BYTES = 2**30
"""Memory for the states of a converged flow; larger images are tuned with fewer seeds, which have more pixels."""
LEAST_SEEDS = 8
FLOW_SHARE = 0.5
"""Share of the time in which solvers nearest to the flow are searched, if others are searched too."""

OnSolver = Callable[[str, int, TunedSolver], None]
"""Called with "flow" or "data", the number of evaluations, and the solver that was found."""


def tune(
    model: ScoreFunction,
    nfe: Sequence[int] = NFE,
    *,
    seconds: float = SECONDS,
    measure: Measure | None = None,
    on_solver: OnSolver | None = None,
    **network: Any,
) -> Tuned:
    """Search the solvers with few evaluations that are nearest to a model's converged probability flow.

    Each is a linear multistep method with its own grid, and with the weights that fit the flow best on this grid; see
    `scoresde_fast.tuning.fitting`.  ``Sampler(model, tuned.options(10))`` samples with the result, and so does
    ``solver="tuned"`` once it is saved in the model's folder.

    Args:
        model: the model.
        nfe: numbers of evaluations, each at least 2.
        seconds: approximate duration of the search, of which larger numbers of evaluations get a larger share.
        measure: a distance to the data, such as that of `scoresde_fast.bench.targets.image_target`; in half of the time
            the solvers nearest to the data are searched too, which may draw noise.
        on_solver: called after each number of evaluations.
        network: ``inputs``, ``guidance`` and ``device`` as of `Sampler`.

    Raises:
        ValueError: a number is out of range, or as `Sampler`.
    """
    if not nfe:
        raise ValueError("nfe is empty; name at least one number of evaluations")
    for number in nfe:
        require_integer("nfe", number, 2)
    require_positive("seconds", seconds)
    end = monotonic() + seconds
    distance = None if measure is None else distance_to_data(model, measure, network)
    search = _Search(model, network)
    found: dict[str, dict[int, TunedSolver]] = {"flow": {}, "data": {}}
    numbers = sorted({*nfe})
    for index, number in enumerate(numbers):
        share = (end - monotonic()) * number / sum(numbers[index:])
        start, default = monotonic(), search.default(number)
        found["flow"][number] = search.flow(number, start + share * (1 if distance is None else FLOW_SHARE))
        if distance is not None:
            safe, seconds_left = [found["flow"][number].options, default], start + share - monotonic()
            nearest, curve = nearest_to_data(model, number, safe, distance, seconds_left, network)
            error, default_error = (distance(options, DATA_UNSEEN) for options in (nearest, default))
            found["data"][number] = TunedSolver(nearest, error, default_error, curve)
        if on_solver is not None:
            for kind, solvers in found.items():
                if number in solvers:
                    on_solver(kind, number, solvers[number])
    return Tuned(**found)


class _Search:
    """Searches the solvers nearest to a model's flow."""

    def __init__(self, model: ScoreFunction, network: dict[str, Any]) -> None:
        self._model, self._network = model, network
        size = 4 * FINE_STEPS * math.prod(model.state_shape)
        seeds = max(LEAST_SEEDS, min(len(SEEDS), MOST_BYTES // size))
        self._seen, self._unseen = (ConvergedFlow(model, each[:seeds], **network) for each in (SEEDS, UNSEEN))
        self._fitting, self._gits = Fitting(self._seen), Gits(self._seen)

    def flow(self, steps: int, deadline: float) -> TunedSolver:
        """Return the best of the fitted solvers that are found until the deadline, and of the default solver."""
        curve = []
        for best in improvements(self._fitting.fit, self._beginnings(steps)):
            curve.append(best.error)
            if monotonic() > deadline:
                break
        times = self._seen.times[list(best.path)].tolist()
        fitted, default = first_order_options(self._model.sde, times, best.weights), self.default(steps)
        options = min(fitted, default, key=lambda each: self._error(each, self._seen))
        return TunedSolver(
            options, self._error(options, self._unseen), self._error(default, self._unseen), tuple(curve)
        )

    def default(self, steps: int) -> SolverOptions:
        """Return the default solver of the flow with this number of steps."""
        options = solver_options(self._model, {"steps": steps, "probability_flow": True})
        assert isinstance(options, SolverOptions)  # adaptive solvers are no defaults
        return options

    def _beginnings(self, steps: int) -> list[Path]:
        """Return the grids from which a search begins: all that have names, and that of GITS if it has enough times."""
        sde, times = self._seen.sde, self._seen.times
        grids = [nearest_path(times, make_grid(name, sde, steps, sde.sampling_eps).edges) for name in grids_of(sde)]
        if steps < len(self._gits.nodes):
            grids.insert(0, self._gits.path(steps))
        return list(dict.fromkeys(grids))

    def _error(self, options: SolverOptions, flow: ConvergedFlow) -> float:
        """Return the root mean square distance of a solver's images, not clipped, to those of the flow."""
        sampler = Sampler(self._model, options, **self._network)
        _, trajectory = sampler.sample(flow.seeds, trajectory=True)
        return error_of(flow.flat(trajectory.states[-1]), flow.images)

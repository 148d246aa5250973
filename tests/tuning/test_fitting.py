# SPDX-License-Identifier: Apache-2.0
"""Weights fitted to the converged flow, and the search over grids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from scoresde_fast.bench.measures import ConvergedFlow as ReferenceFlow
from scoresde_fast.bench.measures import mixture
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE
from scoresde_fast.solvers import make_grid
from scoresde_fast.tuning.fitting import Fit, Fitting, Path, error, least_squares
from scoresde_fast.tuning.flow import ConvergedFlow, first_order_options
from scoresde_fast.tuning.gits import Gits, gits
from scoresde_fast.tuning.search import improvements, moved, nearest_path

SEEDS = range(24)
SDES = [VESDE(), VPSDE(), CLDSDE()]


def flow_of(sde: SDE) -> ConvergedFlow:
    """Return the converged flow of two-dimensional points on an SDE."""
    means = torch.tensor([[-0.6, 0.2], [0.5, -0.3]], dtype=torch.float64).view(2, 2, 1, 1)
    return ConvergedFlow(GaussianMixture(sde, (0.4, 0.6), means, [0.2, 0.1], is_image=False), SEEDS, device="cpu")


@pytest.fixture(scope="module", params=SDES, ids=lambda sde: sde.name)
def flow(request: pytest.FixtureRequest) -> ConvergedFlow:
    """The converged flow on an SDE."""
    return flow_of(request.param)


@pytest.mark.parametrize("name", ["mixture-ve", "mixture-vp", "mixture-cld"])
def test_flow_has_converged(name: str) -> None:
    """The flow at eps is that of a Runge-Kutta method, ten times nearer than the default solver with 20 steps."""
    model = mixture(name)
    own, reference = ConvergedFlow(model, SEEDS, device="cpu"), ReferenceFlow.of(model, len(SEEDS))
    default = Sampler(model, steps=20, probability_flow=True, denoise=False).sample(SEEDS)
    assert reference.error(own.states[-1][:, 0].view(reference.end.shape)) < reference.error(default) / 10


def test_fitted_weights_are_those_of_the_run(flow: ConvergedFlow) -> None:
    """A sampler with the fitted options ends at the states of the fit, so its error is the same up to rounding."""
    path = nearest_path(flow.times, make_grid("karras", flow.sde, 6, flow.sde.sampling_eps).edges)
    fit = Fitting(flow).fit(path, 3)
    options = first_order_options(flow.sde, flow.times[list(path)].tolist(), fit.weights)
    _, trajectory = Sampler(flow.model, options).sample(SEEDS, trajectory=True)
    assert error(flow.flat(trajectory.states[-1]), flow.images) == pytest.approx(fit.error, rel=1e-3)


def test_fit_is_nearer_than_first_order(flow: ConvergedFlow) -> None:
    """With fitted weights for three outputs the run ends nearer to the flow than without."""
    path = nearest_path(flow.times, make_grid("karras", flow.sde, 6, flow.sde.sampling_eps).edges)
    plain = first_order_options(flow.sde, flow.times[list(path)].tolist())
    _, trajectory = Sampler(flow.model, plain).sample(SEEDS, trajectory=True)
    assert Fitting(flow).fit(path, 3).error < error(flow.flat(trajectory.states[-1]), flow.images)


def test_shared_steps_change_nothing(flow: ConvergedFlow) -> None:
    """A fit that reuses the first steps of the one before equals a fit from the start."""
    first, other = (0, 10, 40, 70, len(flow.times) - 1), (0, 10, 40, 60, len(flow.times) - 1)
    fitting = Fitting(flow)
    fitting.fit(first, 2)
    reused, fresh = fitting.fit(other, 2), Fitting(flow).fit(other, 2)
    assert (reused.weights, reused.error) == (fresh.weights, fresh.error)


def test_least_squares() -> None:
    """Targets that are combinations of the features give their coefficients, up to the ridge."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(50, 3, 20, generator=random)
    coefficients = torch.tensor([[0.5, -1.0, 0.0], [0.0, 2.0, 1.0]])
    assert torch.allclose(least_squares(features, coefficients @ features).float(), coefficients, atol=1e-4)


def toy_fit(path: Path, history: int) -> Fit:
    """Return a fit whose error is smallest on the path 0, 17, 30, 40 with three outputs."""
    distance = sum((a - b) ** 2 for a, b in zip(path, (0, 17, 30, 40), strict=True))
    return Fit(path, history, (), 1 + distance + (history - 3) ** 2)


def test_search_finds_the_best_grid() -> None:
    """Moves lead to the only minimum; the error never rises."""
    found = list(improvements(toy_fit, [(0, 1, 2, 40), (0, 10, 20, 40)]))
    assert found[-1].path == (0, 17, 30, 40)
    assert found[-1].history == 3
    assert all(later.error <= earlier.error for earlier, later in pairwise(found))


def test_moves_keep_the_order_of_times() -> None:
    """A time never reaches its neighbours."""
    assert moved((0, 5, 9), 1, 3) == (0, 8, 9)
    assert moved((0, 5, 9), 1, 4) is None
    assert moved((0, 5, 9), 1, -5) is None


def test_nearest_path() -> None:
    """The path has different indices from the first to the last, also where times are denser than the fine ones."""
    times = np.geomspace(1.0, 1e-3, 31)
    assert nearest_path(times, times[[0, 7, 20, 30]]) == (0, 7, 20, 30)
    assert nearest_path(times, np.array([1.0, 0.999, 0.998, 1e-3])) == (0, 1, 2, 30)
    assert nearest_path(times, np.array([1.0, 1.02e-3, 1.01e-3, 1e-3])) == (0, 28, 29, 30)
    with pytest.raises(ValueError, match="40 steps are more than the 30"):
        nearest_path(times, np.linspace(1.0, 1e-3, 41))


def test_gits_path_is_the_cheapest(flow: ConvergedFlow) -> None:
    """No other path of three steps costs less; the path begins at T and ends at eps."""
    found = Gits(flow, stride=8)
    path = found.path(3)
    last = len(found.nodes) - 1
    index = {int(node): i for i, node in enumerate(found.nodes)}
    cost = sum(found.costs[index[a], index[b]] for a, b in pairwise(path))
    sums = [
        found.costs[0, i] + found.costs[i, j] + found.costs[j, last] for i in range(1, last) for j in range(i + 1, last)
    ]
    assert cost == pytest.approx(min(sums))
    assert (path[0], path[-1]) == (0, len(flow.times) - 1)
    assert set(path[1:-1]) <= set(range(0, len(flow.times), 8))


def test_gits_times_are_a_grid() -> None:
    """The times go from T to eps and can be passed as the option grid; too many steps are refused."""
    model = mixture("mixture-vp")
    times = gits(model, 8)
    assert len(times) == 9
    assert (times[0], times[-1]) == (model.sde.T, model.sde.sampling_eps)
    assert Sampler(model, "ipndm", grid=times).nfe == 8 + 1
    with pytest.raises(ValueError, match="steps is 1000; for GITS it must be from 1 to"):
        gits(model, 1000)

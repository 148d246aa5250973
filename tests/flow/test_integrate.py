# SPDX-License-Identifier: Apache-2.0
"""Dormand and Prince's method: SciPy's steps with the batch's norm, each sample's own with its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_fast.flow.control import Fixed, Tolerances
from scoresde_fast.flow.dormand_prince import Tableau
from scoresde_fast.flow.errors import IntegrationError
from scoresde_fast.flow.integrate import Integrator, Run, attempt, integrate
from scoresde_fast.loop.capture_safety import require_capturable
from tests.support.recorded_graphs import RecordedGraphs


def stiffening(y: Tensor, t: Tensor) -> Tensor:
    """A rotation that turns faster with |y|, under a force."""
    turned = torch.stack([-y[:, 1], y[:, 0]], 1)
    return (1 + 4 * y.square().sum(1, keepdim=True)) * turned - 0.3 * y + torch.cos(3 * t)[:, None]


def start(batch: int = 5) -> Tensor:
    return torch.linspace(0.1, 1.6, 2 * batch, dtype=torch.float64).view(batch, 2)


@pytest.mark.parametrize(("begin", "end", "size"), [(0.0, 2.0, 1.0), (2.0, 0.3, 0.5)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_batch_norm_is_scipy(begin: float, end: float, size: float, tolerance: float) -> None:
    """The batch as one vector: SciPy's evaluations, their number, its result and its dense output.

    No step's error comes within 2 % of what decides on it.  Rounding, 2.2e-16 |y| a step, grows at most 11-fold on the
    way forward, in up to 520 steps, and 74-fold on the way back, in up to 200: 4e-13 as a random walk.
    """
    y, times = size * start(), np.linspace(begin, end, 7)

    def flat(t: float, vector: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(vector).view(y.shape)
        return stiffening(state, torch.full((len(y),), t, dtype=torch.float64)).flatten().numpy()

    wanted = solve_ivp(flat, (begin, end), y.flatten().numpy(), rtol=tolerance, atol=tolerance, t_eval=times)
    got = integrate(stiffening, y, begin, end, Tolerances(tolerance, tolerance, "batch"), at=times[1:])
    assert got.evaluations.tolist() == [wanted.nfev] * len(y)
    np.testing.assert_allclose(got.y.flatten().numpy(), wanted.y[:, -1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.at.flatten(1).numpy().T, wanted.y[:, 1:], rtol=0, atol=1e-12)


def test_a_sample_alone_is_the_same_in_a_batch() -> None:
    """Bit for bit, with its number of evaluations; and with the batch's norm of one sample it is SciPy's."""
    together = integrate(stiffening, start(), 0.0, 2.0, Tolerances(1e-6, 1e-6))
    assert len(set(together.evaluations.tolist())) > 1
    for index, y in enumerate(start()):
        alone = integrate(stiffening, y[None], 0.0, 2.0, Tolerances(1e-6, 1e-6, "batch"))
        assert torch.equal(alone.y[0], together.y[index])
        assert alone.evaluations[0] == together.evaluations[index]


def test_order_of_fixed_steps() -> None:
    """The error falls with the fifth power of the step, that of the states in between with the fourth or faster."""
    y = 0.3 * start()
    exact = integrate(stiffening, y, 0.0, 1.0, Tolerances(1e-13, 1e-13), at=[0.3])
    sizes, errors, between = (32, 64, 128), [], []
    for steps in sizes:
        got = integrate(stiffening, y, 0.0, 1.0, Fixed(np.linspace(0, 1, steps + 1)), at=[0.3])
        errors.append((got.y - exact.y).abs().max())
        between.append((got.at - exact.at).abs().max())
        assert (got.evaluations == 1 + 6 * steps).all()
    assert -np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(5, abs=0.25)
    assert -np.polyfit(np.log(sizes), np.log(between), 1)[0] >= 3.75


@pytest.mark.parametrize("control", [Tolerances(1e-6, 1e-6), Fixed(np.linspace(0, 2, 61))], ids=["adaptive", "fixed"])
def test_a_step_can_be_captured(control: Tolerances | Fixed) -> None:
    """No look from the host, and a recorded step that is played again gives the same to the last bit."""
    times = torch.from_numpy(control.times) if isinstance(control, Fixed) else None
    run = Run.empty((5, 2), torch.device("cpu"), [0.7])
    run.load(stiffening, start(), 0.0, 2.0, control)
    tableau = Tableau(torch.device("cpu"))
    require_capturable(lambda: attempt(run, stiffening, tableau, control, times), torch.device("cpu"))
    graphs = RecordedGraphs()
    captured = Integrator(stiffening, 0.0, 2.0, control, at=[0.7], capture=graphs.capture)
    for y in (start(), 0.5 * start()):
        eager, replayed = integrate(stiffening, y, 0.0, 2.0, control, at=[0.7]), captured.solve(y)
        assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    assert graphs.captured == 1


def test_not_a_number_names_sample_and_time() -> None:
    """One sample breaks at t = 0.5; the error has what was reached, and the others arrived."""

    def breaking(y: Tensor, t: Tensor) -> Tensor:
        return torch.where((y[:, :1] > 1.2) & (t[:, None] > 0.5), torch.nan, stiffening(y, t) * 0 + 1e-3)

    for control in (Tolerances(), Fixed(np.linspace(0, 2, 41))):
        with pytest.raises(IntegrationError, match=r"sample 4 of the batch stopped at t = 0\.\d+.*NaN") as caught:
            integrate(breaking, start(), 0.0, 2.0, control)
        assert 0.4 < caught.value.t[4] < 0.51
        assert (caught.value.t[:4] == 2).all()
        assert caught.value.y.isfinite().all()


def test_tolerances_that_cannot_be_met() -> None:
    """A jump of unbounded slope: the sample is given up where it stands, or after the steps allowed."""

    def singular(y: Tensor, t: Tensor) -> Tensor:
        return y.square()  # from y = 1 it is infinite at t = 1

    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(IntegrationError, match=r"stopped at t = 1.*(cannot be met|NaN)") as caught:
        integrate(singular, one, 0.0, 2.0, Tolerances(1e-8, 1e-8))
    assert float(caught.value.t) == pytest.approx(1, abs=1e-6)
    with pytest.raises(IntegrationError, match="after 3 steps"):
        integrate(stiffening, start(), 0.0, 2.0, Tolerances(1e-9, 1e-9, most_steps=3))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Tolerances(rtol=0.0), "rtol is 0.0"),
        (lambda: Tolerances(atol=float("nan")), "atol is nan"),
        (lambda: Tolerances(norm="max"), "error norm"),
        (lambda: Tolerances(most_steps=0), "most_steps is 0"),
        (lambda: Fixed(np.array([0.0, 1.0, 1.0])), "only increase"),
        (lambda: integrate(stiffening, start().float(), 0, 1, Tolerances()), "float64"),
        (lambda: integrate(stiffening, start(), 1, 1, Tolerances()), "two different times"),
        (lambda: integrate(stiffening, start(), 0, 1, Fixed(np.array([0.0, 2.0]))), "make them the same"),
        (lambda: integrate(stiffening, start(), 0, 1, Tolerances(), at=[1.5]), "outside the integration"),
    ],
)
def test_refusals(wrong: object, sentence: str) -> None:
    """Each says what is wrong."""
    with pytest.raises(ValueError, match=sentence):
        wrong()  # type: ignore[operator]

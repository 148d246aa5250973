# SPDX-License-Identifier: Apache-2.0
"""RK45: the steps of SciPy with the batch norm, separate steps for each sample, capture, and errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_fast.flow import integrate
from scoresde_fast.flow.integrate import RK45, IntegrationError, Slope, Solution, Tolerances
from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.sdes import Array
from tests.support.recorded_graphs import RecordedGraphs


def stiffening(y: Tensor, t: Tensor) -> Tensor:
    """A damped rotation that is faster at larger |y|, with a periodic force."""
    rotated = torch.stack([-y[:, 1], y[:, 0]], 1)
    return (1 + 4 * y.square().sum(1, keepdim=True)) * rotated - 0.3 * y + torch.cos(3 * t)[:, None]


def start(batch: int = 5) -> Tensor:
    return torch.linspace(0.1, 1.6, 2 * batch, dtype=torch.float64).view(batch, 2)


def solve(slope: Slope, y: Tensor, begin: float, end: float, control: Tolerances | Array) -> Solution:
    return RK45(slope, y, begin, end, control).solve(y)


@pytest.mark.parametrize(("begin", "end", "size"), [(0.0, 2.0, 1.0), (2.0, 0.3, 0.5)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_batch_norm_equals_scipy(begin: float, end: float, size: float, tolerance: float) -> None:
    """The number of evaluations and the result are those of SciPy for the batch as one vector.

    No step's error is within 2 % of the acceptance threshold.  Rounding errors are 2.2e-16 |y| per step.  They grow at
    most 11-fold in up to 520 steps forwards, and 74-fold in up to 200 backwards: as a random walk, to 4e-13.
    """
    y = size * start()

    def flat(t: float, vector: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(vector).view(y.shape)
        return stiffening(state, torch.full((len(y),), t, dtype=torch.float64)).flatten().numpy()

    expected = solve_ivp(flat, (begin, end), y.flatten().numpy(), rtol=tolerance, atol=tolerance)
    solution = solve(stiffening, y, begin, end, Tolerances(tolerance, tolerance, "batch"))
    assert solution.evaluations.tolist() == [expected.nfev] * len(y)
    np.testing.assert_allclose(solution.y.flatten().numpy(), expected.y[:, -1], rtol=0, atol=1e-12)


def test_sample_does_not_depend_on_its_batch() -> None:
    """A sample in a batch with norm "sample" has the bits and evaluations of the sample alone with norm "batch"."""
    together = solve(stiffening, start(), 0.0, 2.0, Tolerances(1e-6, 1e-6))
    assert len(set(together.evaluations.tolist())) > 1
    for index, y in enumerate(start()):
        alone = solve(stiffening, y[None], 0.0, 2.0, Tolerances(1e-6, 1e-6, "batch"))
        assert torch.equal(alone.y[0], together.y[index])
        assert alone.evaluations[0] == together.evaluations[index]


def test_order_of_fixed_steps() -> None:
    """The error is proportional to the fifth power of the step."""
    y = 0.3 * start()
    exact = solve(stiffening, y, 0.0, 1.0, Tolerances(1e-13, 1e-13))
    sizes, errors = (32, 64, 128), []
    for steps in sizes:
        solution = solve(stiffening, y, 0.0, 1.0, np.linspace(0, 1, steps + 1))
        errors.append((solution.y - exact.y).abs().max())
        assert (solution.evaluations == 1 + 6 * steps).all()
    assert -np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(5, abs=0.25)


@pytest.mark.parametrize("control", [Tolerances(1e-6, 1e-6), np.linspace(0, 2, 61)], ids=["adaptive", "fixed"])
def test_step_can_be_captured(control: Tolerances | Array) -> None:
    """An attempt reads nothing on the host, and its replay gives the same bits."""
    eager = RK45(stiffening, start(), 0.0, 2.0, control)
    eager.load(start())
    require_capturable(eager.attempt, torch.device("cpu"))
    graphs = RecordedGraphs()
    captured = RK45(stiffening, start(), 0.0, 2.0, control, graphs.capture)
    for y in (start(), 0.5 * start()):
        assert all(torch.equal(a, b) for a, b in zip(eager.solve(y), captured.solve(y), strict=True))
    assert graphs.captured == 1


def test_nan_names_sample_and_time() -> None:
    """If one sample becomes NaN at t = 0.5, the others reach the end, and the error contains the last states."""

    def breaking(y: Tensor, t: Tensor) -> Tensor:
        return torch.where((y[:, :1] > 1.2) & (t[:, None] > 0.5), torch.nan, stiffening(y, t) * 0 + 1e-3)

    for control in (Tolerances(), np.linspace(0, 2, 41)):
        with pytest.raises(IntegrationError, match=r"sample 4 of the batch stopped at t = 0\.\d+.*NaN") as caught:
            solve(breaking, start(), 0.0, 2.0, control)
        assert 0.4 < caught.value.t[4] < 0.51
        assert (caught.value.t[:4] == 2).all()
        assert caught.value.y.isfinite().all()


def test_unreachable_tolerances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integration stops at a singularity, or after the maximum number of attempts."""

    def singular(y: Tensor, t: Tensor) -> Tensor:
        return y.square()  # the solution from y(0) = 1 diverges at t = 1

    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(IntegrationError, match=r"stopped at t = 1.*(does not meet|NaN)") as caught:
        solve(singular, one, 0.0, 2.0, Tolerances(1e-8, 1e-8))
    assert float(caught.value.t) == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(integrate, "MAX_ATTEMPTS", 3)
    with pytest.raises(IntegrationError, match="after 3 steps"):
        solve(stiffening, start(), 0.0, 2.0, Tolerances(1e-9, 1e-9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tolerances(rtol=0.0), "rtol is 0.0"),
        (lambda: Tolerances(atol=float("nan")), "atol is nan"),
        (lambda: Tolerances(norm="max"), "error_norm"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    """The error names the value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        call()

# SPDX-License-Identifier: Apache-2.0
"""Noise schedules: closed forms against the marginals alone, DDPM's chain, and refused values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from scoresde_fast.sdes import EDM, VESDE, VPSDE, Betas, RectifiedFlow, ScalarSDE, Schedule, SubVPSDE, Time
from scoresde_fast.sdes.scalar import Marginal

CLOSED_FORMS = [VESDE(), VPSDE(), SubVPSDE(), EDM(), RectifiedFlow()]


@dataclass(frozen=True)
class MarginalOnly(ScalarSDE):
    """An SDE that defines its marginals alone, those of ``other``."""

    other: ScalarSDE

    @property
    def T(self) -> float:
        return self.other.T

    def marginal(self, t: Time) -> Marginal:
        return self.other.marginal(t)


@pytest.mark.parametrize("sde", CLOSED_FORMS, ids=lambda sde: sde.name)
def test_marginals_determine_the_rest(sde: ScalarSDE) -> None:
    """Drift and squared diffusion from differences of the marginals equal the closed forms, but for rounding.

    A difference over 1e-5 t of logarithms up to 7 has an error of at most 1e-9 / t.
    """
    times = np.linspace(sde.sampling_eps, sde.T, 50)
    derived, rounding = MarginalOnly(sde), 1e-9 / times
    drift, squared = sde.drift(times), sde.diffusion(times) ** 2
    assert (abs(derived.drift(times) - drift) <= 1e-6 * abs(drift) + rounding).all()
    bound = 1e-6 * squared + 4 * sde.marginal(times).std ** 2 * rounding
    assert (abs(derived.diffusion(times) ** 2 - squared) <= bound).all()
    assert derived.name == "MarginalOnly" and derived.drift(0.5).shape == ()
    assert derived.prior_std == pytest.approx(sde.prior_std, rel=1e-4)


def test_functions_of_the_time() -> None:
    """A schedule of two functions equals the closed form, also if one of them returns a constant."""
    times = np.linspace(0.01, 0.9, 20)
    flow = Schedule(lambda t: 1 - t, lambda t: t, T=0.999)
    edm = Schedule(lambda t: np.ones(()), lambda t: t, T=80.0, sampling_eps=0.002)
    for sde, closed_form in ((flow, RectifiedFlow()), (edm, EDM())):
        for ours, theirs in zip(sde.marginal(times), closed_form.marginal(times), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(sde.diffusion(times), closed_form.diffusion(times), rtol=1e-6)
        assert (sde.T, sde.sampling_eps) == (closed_form.T, closed_form.sampling_eps)


@pytest.mark.parametrize("make", [Betas.linear, Betas.scaled_linear, Betas.cosine])
def test_chain_of_betas(make: Callable[[int], Betas]) -> None:
    """Marginals and transitions at the indices are those of the chain."""
    sde = make(1000)
    betas = np.asarray(sde.betas)
    times = np.arange(1, 1001) / 1000
    scale, std = sde.marginal(times)
    np.testing.assert_allclose(scale**2, np.cumprod(1 - betas), rtol=1e-12)
    np.testing.assert_allclose(scale**2 + std**2, 1, rtol=1e-12)
    step = sde.transition(times - 0.001, times)
    np.testing.assert_allclose(step.scale, np.sqrt(1 - betas), rtol=1e-9)
    np.testing.assert_allclose(step.std, np.sqrt(betas), rtol=1e-6)
    np.testing.assert_allclose(sde.langevin_alpha(times, 0.001), 1 - betas, rtol=1e-9)
    np.testing.assert_allclose(np.exp(sde.drift(times) / 1000), np.sqrt(1 - betas), rtol=1e-12)
    np.testing.assert_allclose(sde.diffusion(times) ** 2, -2 * sde.drift(times), rtol=1e-12)
    assert (sde.index(times) == np.arange(1000)).all() and len(sde) == 1000 and sde.sampling_eps == 0.001
    np.testing.assert_allclose(Betas.from_alphas_cumprod(scale**2).betas, betas, rtol=1e-9)


def test_times_of_the_indices() -> None:
    """Times are moved to the nearest different times of indices, of which the first is 1 / n."""
    sde = Betas.linear(10, 0.1, 0.9)
    for times, expected in (
        ([1.0, 0.96, 0.52, 0.17, 0.0], [1.0, 0.9, 0.5, 0.2, 0.1]),
        ([0.5, 0.13, 0.12, 0.11, 0.1], [0.5, 0.4, 0.3, 0.2, 0.1]),
        ([1.0, 0.99, 0.98, 0.97], [1.0, 0.9, 0.8, 0.7]),
        (np.linspace(1, 0.9, 10), np.linspace(1, 0.1, 10)),
    ):
        np.testing.assert_allclose(sde.trained_times(np.array(times)), expected)
    with pytest.raises(ValueError, match="10 betas, which is too few for 11 different times: take at most 9"):
        sde.trained_times(np.linspace(1, 0.1, 11))


def test_published_betas() -> None:
    """The defaults have the first and last betas of their publications; equal schedules compare equal."""
    for sde, first, last in (
        (Betas.linear(), 1e-4, 0.02),
        (Betas.scaled_linear(), 0.00085, 0.012),
        (Betas.cosine(), 4.13e-5, 0.999),
    ):
        assert sde.betas[0] == pytest.approx(first, rel=2e-3) and sde.betas[-1] == pytest.approx(last)
    assert Betas([0.9, 0.99]) == Betas(np.array([0.9, 0.99])) and hash(Betas([0.9, 0.99])) == hash(Betas((0.9, 0.99)))
    assert repr(Betas.linear()) == "Betas(1000 from 0.0001 to 0.02)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Betas(1 - np.linspace(1e-4, 0.02, 9)),
            "the betas fall from 0.9999 to 0.98, .*: pass betas, not",
        ),
        (lambda: Betas([0.1, 1.0]), "beta number 1 is 1; each beta must be between 0 and 1"),
        (lambda: Betas([0.1, float("nan")]), "beta number 1 is nan"),
        (lambda: Betas(np.full((1, 2), 0.1)), r"betas has shape \(1, 2\); pass a list"),
        (lambda: Betas([0.1, 0.2]), "the last state contains 0.849 times the data; it must be at most 0.2"),
        (
            lambda: Schedule(lambda t: np.cos(np.pi / 2 * t), np.sin),
            r"sigma / alpha is .*e\+16 at T=1; it must be at most",
        ),
        (
            lambda: Schedule(lambda t: np.float32(1) - t.astype("f"), lambda t: t),
            "alpha returns ndarray of dtype float32",
        ),
        (
            lambda: Schedule(lambda t: 1 - t / 2, lambda t: t[:, None]),
            r"sigma returns .* and shape \(257, 1\) for times",
        ),
        (lambda: EDM(80.0, 0.002), "sigma_min=80.0, sigma_max=0.002: EDM needs"),
        (lambda: RectifiedFlow(T=1.0), "T=1.0: rectified flow needs 0 < sampling_eps < T <= 0.9999"),
        (lambda: Schedule(lambda t: 1 - t, lambda t: t, sampling_eps=2.0), "sampling_eps=2.0, T=1.0: a schedule needs"),
        (lambda: Schedule(lambda t: 1 - t, lambda t: t), "at t=1 alpha is 0 and sigma is 1; both must be positive"),
        (lambda: Schedule(lambda t: 1 + t, lambda t: 1 - t / 2), "sigma / alpha must increase with the time"),
    ],
)
def test_invalid_schedules(make: Callable[[], Any], message: str) -> None:
    """Values out of range and functions that are no schedule are refused; the message gives the value."""
    with pytest.raises(ValueError, match=message):
        make()

# SPDX-License-Identifier: Apache-2.0
"""Time grids by name: their ends, given edges and spacing, and published tables."""

from __future__ import annotations

import re
from typing import get_args, get_type_hints

import numpy as np
import pytest
from scipy import stats

from scoresde_fast.configs.schema import SamplingConfig
from scoresde_fast.flow.options import FlowOptions
from scoresde_fast.sdes import CLDSDE, EDM, SDE, VPSDE, Array, Betas, RectifiedFlow
from scoresde_fast.solvers import GRIDS, SolverOptions, StepTable, build_table, grids_of, make_grid
from scoresde_fast.solvers.exact_moments import marginal, propagate
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.solvers.singlestep import ddim
from scoresde_fast.solvers.spacings import beta_quantiles
from tests.support.toy_solvers import SDE_OF

STABLE_DIFFUSION, VIDEO = Betas.scaled_linear(), EDM(0.002, 700.0)


def indices(grid: TimeGrid, sde: Betas) -> list[int]:
    """Return the indices of the betas at the edges of a grid."""
    return sde.index(grid.edges).tolist()


@pytest.mark.parametrize("grid", grids_of(VPSDE()))
@pytest.mark.parametrize("name", SDE_OF)
def test_grids_end_at_eps(name: str, grid: str) -> None:
    """Grids of the fast solvers descend from the start exactly to eps and pass through the given times."""
    sde = SDE_OF[name]
    whole = make_grid(grid, sde, 12, 0.01, through=(0.3, 0.05)).edges
    assert len(whole) == 13 and (whole[0], whole[-1]) == pytest.approx((1.0, 0.01), rel=1e-12)
    assert {0.3, 0.05} <= set(whole) and (np.diff(whole) < 0).all()
    part = make_grid(grid, sde, 5, 0.2, start=0.6).edges
    assert len(part) == 6 and (np.diff(part) < 0).all()
    assert (part[0], part[-1]) == pytest.approx((0.6, 0.2), rel=1e-12)


def test_every_list_has_every_grid() -> None:
    """The type of the option "sampling.grid" lists `GRIDS`; so does the help of the flow."""
    assert get_args(get_type_hints(SamplingConfig)["grid"]) == tuple(GRIDS)
    entry = re.search(r"\n *grid: (.*?)\n *\w+: ", FlowOptions.__doc__ or "", re.DOTALL)
    assert entry is not None and set(GRIDS) <= set(re.findall(r"\w+", entry[1]))


@pytest.mark.parametrize("name", SDE_OF)
def test_logsnr_grid_is_even(name: str) -> None:
    """Steps have equal lengths in log(scale / std)."""
    widths = NoiseSchedule.at(SDE_OF[name], make_grid("logsnr", SDE_OF[name], 20, 1e-3).edges).h
    assert widths == pytest.approx(np.full(20, widths.mean()), rel=1e-9)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("name", SDE_OF)
def test_karras_grid_is_even(name: str, rho: float) -> None:
    """Steps have equal lengths in the power 1 / ``rho`` of std / scale; the default of ``rho`` is 7."""
    sde = SDE_OF[name]
    edges = make_grid("karras", sde, 20, 1e-3, parameters={} if rho == 7 else {"rho": rho}).edges
    widths = np.diff(sde.noise_to_signal(edges) ** (1 / rho))
    assert widths == pytest.approx(np.full(20, widths.mean()), rel=1e-7)


class TestBeta:
    def test_quantiles(self) -> None:
        """Quantiles are those of SciPy, also at 0, 1 and close to them, and of any shape."""
        probability = np.array([[0.0, 1e-12, 1e-3, 0.2], [0.5, 0.9, 1 - 1e-9, 1.0]])
        expected = stats.beta.ppf(probability, 0.6, 0.6)
        np.testing.assert_allclose(beta_quantiles(probability), expected, rtol=1e-10, atol=1e-18)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_same_as_diffusers(self) -> None:
        """Where its sigma is our time, the edges are the sigmas of diffusers with ``use_beta_sigmas``."""
        diffusers = pytest.importorskip("diffusers")
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True)
        scheduler.set_timesteps(9)
        sigmas = scheduler.sigmas.numpy()[:-1]
        edges = make_grid("beta", RectifiedFlow(), 8, float(sigmas[-1]), start=float(sigmas[0])).edges
        np.testing.assert_allclose(edges, sigmas, rtol=1e-5)


class TestKlOptimal:
    @pytest.mark.parametrize("name", SDE_OF)
    def test_even_in_the_angle(self, name: str) -> None:
        """Steps have equal lengths in atan(std / scale / sigma_data)."""
        edges = make_grid("kl_optimal", SDE_OF[name], 12, 1e-3, parameters={"sigma_data": 0.3}).edges
        widths = np.diff(np.arctan(SDE_OF[name].noise_to_signal(edges) / 0.3))
        assert widths == pytest.approx(np.full(12, widths.mean()), rel=1e-7)

    @pytest.mark.parametrize("name", SDE_OF)
    def test_best_for_gaussian_data(self, name: str) -> None:
        """After DDIM on N(0, 1) the standard deviation is off by the product of cosines, and less than on others."""
        sde, steps, eps = SDE_OF[name], 6, 1e-3

        def ratio(edges: Array) -> float:
            """Return the standard deviation after a run from the exact one, divided by the exact one."""
            rows = StepTable.of(ddim(sde, TimeGrid.between(edges), probability_flow=True))
            end = propagate(rows, sde, (0.0, 1.0), marginal(sde, sde.T, 0.0, 1.0)).covariance[0, 0]
            return float(np.sqrt(end / marginal(sde, eps, 0.0, 1.0).covariance[0, 0]))

        best = make_grid("kl_optimal", sde, steps, eps, parameters={"sigma_data": 1.0}).edges
        angle = np.ptp(np.arctan(sde.noise_to_signal(best[[0, -1]]))) / steps
        assert ratio(best) == pytest.approx(np.cos(angle) ** steps, rel=1e-6)
        others = [make_grid(grid, sde, steps, eps).edges for grid in ("karras", "logsnr", "uniform", "beta")]
        moved = best.copy()
        moved[2] += 0.05 * (best[1] - best[2])
        assert max(map(ratio, [*others, moved])) < ratio(best) < 1


class TestAlignYourSteps:
    def test_published_indices(self) -> None:
        """Ten steps on the betas of Stable Diffusion are the published tables, and 11 steps with denoising."""
        expected = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
        assert indices(make_grid("ays", STABLE_DIFFUSION, 10, 1e-3), STABLE_DIFFUSION) == expected
        assert indices(make_grid("ays_sdxl", STABLE_DIFFUSION, 10, 1e-3), STABLE_DIFFUSION) == [
            999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0
        ]  # fmt: skip
        table = build_table(STABLE_DIFFUSION, SolverOptions("dpmpp_2m", 11, grid="ays"))
        assert STABLE_DIFFUSION.index(table.times).tolist() == expected

    def test_published_noise_levels(self) -> None:
        """The noise levels are those that diffusers and the authors publish, rounded."""
        sigmas = STABLE_DIFFUSION.noise_to_signal(make_grid("ays", STABLE_DIFFUSION, 10, 1e-3).edges)
        np.testing.assert_allclose(sigmas[:3], [14.6146412293, 6.4745760956, 3.8636745985], rtol=1e-5)
        assert sigmas[-1] == pytest.approx(0.0291671582, rel=1e-5)
        video = make_grid("ays", VIDEO, 10, 0.002).edges
        np.testing.assert_allclose(
            video, [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002], rtol=1e-9
        )

    def test_same_as_diffusers(self) -> None:
        """The tables are those of diffusers."""
        utilities = pytest.importorskip("diffusers.schedulers.scheduling_utils")
        published = utilities.AysSchedules
        for grid, name in (("ays", "StableDiffusionTimesteps"), ("ays_sdxl", "StableDiffusionXLTimesteps")):
            got = indices(make_grid(grid, STABLE_DIFFUSION, 10, 1e-3), STABLE_DIFFUSION)
            assert got[:-1] == published[name]
        video = make_grid("ays", VIDEO, 10, 0.002).times
        np.testing.assert_allclose(video, published["StableDiffusionVideoSigmas"][:-1], rtol=1e-9)

    def test_other_numbers_of_steps(self) -> None:
        """The logarithm of std / scale is linear between the entries; a part of the run is a part of the table."""
        table = make_grid("ays", VIDEO, 10, 0.002).edges
        np.testing.assert_allclose(make_grid("ays", VIDEO, 5, 0.002).edges, table[::2], rtol=1e-9)
        finer = make_grid("ays", VIDEO, 20, 0.002).edges
        np.testing.assert_allclose(finer[::2], table, rtol=1e-9)
        np.testing.assert_allclose(finer[1::2], np.sqrt(table[1:] * table[:-1]), rtol=1e-9)
        np.testing.assert_allclose(make_grid("ays", VIDEO, 4, table[8], start=table[4]).edges, table[4:9], rtol=1e-9)
        below = make_grid("ays", EDM(1e-3, 700.0), 10, 1e-3).edges
        np.testing.assert_allclose(below[:-1], table[:-1], rtol=1e-9)
        assert below[-1] == pytest.approx(1e-3, rel=1e-12)

    @pytest.mark.parametrize(
        ("grid", "sde", "message"),
        [
            ("ays", VPSDE(), "grid 'ays' is published for Betas.scaled_linear(1000), as in Stable Diffusion, and EDM("),
            ("ays", EDM(), "sigma_max=700), as in Stable Video Diffusion, not for the SDE 'edm': choose from uniform,"),
            ("ays", Betas.linear(), "not for the SDE 'betas': choose from uniform, quadratic, sqrt, karras, logsnr, "),
            ("ays_sdxl", VIDEO, "scaled_linear(1000), as in Stable Diffusion XL, not for the SDE 'edm': choose from"),
            ("ays", CLDSDE(), "not for the SDE 'cld': choose from uniform, quadratic"),
        ],
    )
    def test_other_schedules(self, grid: str, sde: SDE, message: str) -> None:
        """A schedule without a published table is refused; the message lists the grids that it has."""
        assert grid not in grids_of(sde)
        with pytest.raises(ValueError, match=re.escape(message)):
            make_grid(grid, sde, 10, sde.sampling_eps)

    def test_grids_of_an_sde(self) -> None:
        """A table belongs to the schedule that it is published for, also if its betas are rounded."""
        rounded = Betas(np.asarray(STABLE_DIFFUSION.betas, dtype=np.float32))
        assert grids_of(STABLE_DIFFUSION) == grids_of(rounded) == tuple(GRIDS)
        assert set(GRIDS) - set(grids_of(VIDEO)) == {"ays_sdxl"}

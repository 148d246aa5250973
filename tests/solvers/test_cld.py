# SPDX-License-Identifier: Apache-2.0
"""CLD's solvers: the original program's runs, merged against unmerged SSCS, gDDIM's exactness, and orders."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from scoresde_fast.loop.evaluate import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.table_runner import program_for
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import Parametrisation, ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step_pair
from scoresde_fast.ops.step_table import CONTROL
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE
from scoresde_fast.sdes.pairs import cholesky
from scoresde_fast.solvers import GRIDS, SolverOptions, StepTable, build_table
from scoresde_fast.solvers.gddim import Rotations
from scoresde_fast.solvers.grids import make_grid
from scoresde_fast.solvers.moments import marginal, prior, propagate
from scoresde_fast.solvers.sscs import unmerged
from scoresde_fast.solvers.stochastic_gddim import density_shares, reverse_diffusion_rows
from tests.support.chance import assert_moments, kolmogorov_smirnov_bound

CONSTANT, LINEAR = CLDSDE(), CLDSDE(beta0=0.1, beta1=6.9, numerical_eps=1e-6)
SDES = {"const": CONSTANT, "linear": LINEAR}
DAMPINGS = {"critical": None, "under": 0.4, "over": 2.0}
MEAN, STD = 0.3, 0.5


class Recorded(nn.Module):
    """The "network" that the golden runs were recorded with."""

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        x, v = u.chunk(2, dim=1)
        return 0.2 * x - 0.3 * v + t.view(-1, 1, 1, 1)


class Wave(nn.Module):
    """A network of images that is not linear."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x.tanh() + t.view(-1, 1, 1, 1)


def run(model: ScoreFunction, table: StepTable, u: Tensor, backend: str = "auto", seed: int = 0) -> Tensor:
    """The loop's run from the states ``u``."""
    program = program_for(model, table, "cpu")
    loop = Loop(program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu", backend), seed)
    return loop.run(u, Noise(seed, torch.arange(len(u))))


@pytest.mark.parametrize("denoise", [True, False], ids=["denoised", "as it is"])
@pytest.mark.parametrize(("striding", "grid"), [("linear", "uniform"), ("quadratic", "quadratic")])
@pytest.mark.parametrize("solver", ["em", "sscs"])
@pytest.mark.parametrize("name", SDES)
def test_golden_runs(golden: Path, name: str, solver: str, striding: str, grid: str, denoise: bool) -> None:
    """Whole runs of eight evaluations with the recorded draws and a mixed score, to 1e-5; SSCS as in the original."""
    with np.load(golden / "cld_steps.npz") as archive:
        key = f"sample/{name}_{solver}_{striding}_denoise{int(denoise)}_n8"
        start, draws, x, v, nfe = (archive[f"{key}/{part}"] for part in ("u0", "z", "x", "v", "nfe"))
    options = SolverOptions(solver, 8, grid=grid, denoise=denoise, original=solver == "sscs")
    table = build_table(SDES[name], options)
    assert table.nfe == nfe
    model = ScoreFunction(Recorded(), Parametrisation(SDES[name], mixed=True), (3, 4, 4), centered=True)

    def recorded(state: Tensor, _ids: Tensor, _seed: int, control: Tensor) -> Tensor:
        return torch.from_numpy(draws[int(control[CONTROL.draw]) - 1]).to(state.dtype)

    with patch.object(affine_step_pair, "row_noise", recorded):
        out = run(model, table, torch.from_numpy(start), "reference")
    for ours, theirs in zip(out.chunk(2, dim=1), (x, v), strict=True):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_the_parity_flag_departs_only_where_beta_changes() -> None:
    """With a constant beta the original's SSCS is the right one, with a linear beta it is not."""
    for sde, same in ((CONSTANT, True), (LINEAR, False)):
        ends = []
        for original in (False, True):
            table = build_table(sde, SolverOptions("sscs", 8, grid="quadratic", original=original))
            ends.append(propagate(table, sde, (MEAN, STD), prior(sde)).covariance)
        assert np.allclose(*ends, rtol=1e-9) == same


def right_halves(sde: CLDSDE, grid: str, steps: int) -> StepTable:
    """SSCS as it is merged, with a row for each half step."""
    g = make_grid(grid, sde, steps, 1e-3)
    first, second = sde.clock(g.times - g.dt / 2, g.times), sde.clock(g.ends, g.times - g.dt / 2)
    return StepTable.of(unmerged(sde, g.times, first, first + second, second))


@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("beta", [(4.0, 0.0), (0.1, 6.9)], ids=["constant", "linear"])
def test_merged_sscs_is_the_unmerged_one(beta: tuple[float, float], damping: str, grid: str) -> None:
    """Mean and covariance before every score evaluation, and at the end, agree to 1e-12."""
    sde = CLDSDE(friction=DAMPINGS[damping], beta0=beta[0], beta1=beta[1])
    steps = 20
    merged = build_table(sde, SolverOptions("sscs", steps, grid=grid, denoise=False)).rows
    halves = right_halves(sde, grid, steps).rows
    assert (len(merged), len(halves)) == (steps + 1, 2 * steps)
    for done in range(1, steps + 1):
        last = done == steps
        # the unmerged table has one more half step before the same evaluation
        ours = StepTable.of(merged[: done + 1])
        theirs = StepTable.of(halves[: 2 * done + (not last)])
        a, b = (propagate(table, sde, (MEAN, STD), prior(sde)) for table in (ours, theirs))
        assert np.abs(a.mean - b.mean).max() <= 1e-12
        assert np.abs(a.covariance - b.covariance).max() <= 1e-12


def mixture(sde: SDE) -> GaussianMixture:
    """The toy of the reference: three tight modes on a line."""
    means = torch.tensor([-0.8, -0.1, 0.6]).view(3, 1, 1, 1)
    return GaussianMixture(sde, [0.3, 0.5, 0.2], means, [0.05] * 3)


@pytest.mark.statistical
def test_merged_and_unmerged_sscs_draw_alike(run_seed: int) -> None:
    """10^5 samples of a mixture by either, of independent noise: Kolmogorov-Smirnov on x and on v."""
    samples, count = [], 100_000
    tables = (
        build_table(CONSTANT, SolverOptions("sscs", 8, grid="quadratic", denoise=False)),
        right_halves(CONSTANT, "quadratic", 8),
    )
    for seed, table in enumerate(tables, start=2 * run_seed):
        model = mixture(CONSTANT)
        u = model.prior(Noise(seed, torch.arange(count)).normal(0, model.state_shape))
        samples.append(run(model, table, u, seed=seed).flatten(1).numpy())
    for part in (0, 1):
        distance = ks_2samp(samples[0][:, part], samples[1][:, part]).statistic
        assert distance <= kolmogorov_smirnov_bound([count, count])


@pytest.mark.parametrize("damping", ["critical", "over"])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_gddim_keeps_a_point_exactly(sde: CLDSDE, damping: str) -> None:
    """With e constant a step is exact: its weights sum to R(t') - Psi(t', t) R(t), and R R^T is the covariance."""
    sde = CLDSDE(friction=DAMPINGS[damping], beta0=sde.beta0, beta1=sde.beta1, numerical_eps=sde.numerical_eps)
    grid = make_grid("quadratic", sde, 10, 1e-3)
    rotations = Rotations(sde, grid)
    roots = rotations.root(grid.times, rotations.angles)
    assert np.allclose(roots @ roots.swapaxes(-1, -2), sde.flowing_covariance(grid.times), rtol=1e-12, atol=0)
    exact = roots[1:] - sde.propagator(grid.times[:-1], grid.times[1:]) @ roots[:-1]
    for order in (1, 2, 3, 4):
        weights = rotations.weights(order)
        assert not weights[0, 1:].any()
        error = np.abs(weights.sum(1)[:-1] - exact).max((-1, -2))
        assert (error <= 1e-10 * np.abs(roots[1:]).max((-1, -2))).all()


def test_noisy_gddim_is_the_conditional_distribution() -> None:
    """With the data in one point a step is exact at any length: one from T to 0.01 has the marginal there."""
    sde, point = CONSTANT, 0.7
    grid = make_grid("uniform", sde, 1, 0.01)
    row = reverse_diffusion_rows(sde, grid, 1)[0]
    mean = sde.propagator(0.0, 1.0)[:, 0] * point
    covariance = sde.flowing_covariance(1.0)
    got_mean = row.state @ mean + row.outputs[0] @ np.array([point, 0.0])
    got = row.state @ covariance @ row.state.T + row.noise @ row.noise.T
    assert np.allclose(got_mean, sde.propagator(0.0, 0.01)[:, 0] * point, rtol=1e-12, atol=1e-14)
    assert np.allclose(got, sde.flowing_covariance(0.01), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_noisy_gddim_shares(sde: CLDSDE) -> None:
    """The weights of every order sum to B, and the integral that they come from is B too."""
    grid = make_grid("logsnr", sde, 12, 5e-3)
    rows = reverse_diffusion_rows(sde, grid, 3)
    quadrature = np.stack([sum(row.outputs)[:, 0] for row in rows])
    start = np.stack([row.state @ sde.propagator(0.0, row.t)[:, 0] for row in rows])
    assert np.allclose(quadrature, sde.propagator(np.zeros(12), grid.ends)[..., 0] - start, rtol=1e-12, atol=1e-15)
    first = density_shares(sde, grid, 1)[:, 0]
    assert np.allclose(first, quadrature, rtol=1e-9, atol=1e-12)


ORDERS = [
    ("em", False, None, 1),
    ("em", True, None, 1),
    ("sscs", False, None, 1),
    *[("gddim", True, order, order) for order in (1, 2, 3, 4)],
    *[("gddim", False, order, min(order, 2)) for order in (1, 2, 3, 4)],
]


def noise(solver: str, flow: bool) -> float | None:
    """What asks "gddim" for its noisy form."""
    return 1.0 if solver == "gddim" and not flow else None


@pytest.mark.parametrize(
    ("solver", "flow", "order", "claimed"),
    ORDERS,
    ids=[f"{s}-{'flow' if f else 'sde'}-{o or 1}" for s, f, o, _ in ORDERS],
)
@pytest.mark.parametrize("damping", ["critical", "under"])
def test_order_of_convergence(solver: str, flow: bool, order: int | None, claimed: int, damping: str) -> None:
    """The error in mean and covariance falls with the step size at the solver's order, within 0.25."""
    sde = CLDSDE(friction=DAMPINGS[damping])
    if damping == "under" and order is not None:
        with pytest.raises(ValueError, match="under-damped"):
            build_table(sde, SolverOptions(solver, 200, order=order))
        return
    sizes = (200, 400, 800)
    errors = []
    for steps in sizes:
        table = build_table(
            sde,
            SolverOptions(
                solver,
                steps,
                grid="quadratic",
                probability_flow=flow,
                order=order,
                denoise=False,
                eps=1e-3,
                eta=noise(solver, flow),
            ),
        )
        got = propagate(table, sde, (MEAN, STD), marginal(sde, sde.T, MEAN, STD))
        wanted = marginal(sde, 1e-3, MEAN, STD)
        errors.append(np.abs(got.mean - wanted.mean).max() + np.abs(got.covariance - wanted.covariance).max())
    slope = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(claimed, abs=0.25)


@pytest.mark.statistical
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("solver", "flow", "order"), [case[:3] for case in ORDERS])
def test_distribution_after_a_run(solver: str, flow: bool, order: int | None, grid: str, run_seed: int) -> None:
    """20 000 samples of a short run have the mean and covariance that the table predicts, in the fused kernels."""
    sde = CONSTANT
    table = build_table(
        sde, SolverOptions(solver, 25, grid=grid, probability_flow=flow, order=order, eta=noise(solver, flow))
    )
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    model = GaussianMixture.gaussian(sde, MEAN, STD, (1, 1, 1))
    u = model.prior(Noise(run_seed, torch.arange(20_000)).normal(0, model.state_shape))
    values = run(model, table, u, seed=run_seed).flatten(1)
    for part, variance in enumerate(np.diag(predicted.covariance)):
        assert_moments(values[:, part], predicted.mean[part], np.sqrt(variance))


@pytest.mark.parametrize("solver", ["em", "sscs", "gddim"])
def test_the_finish_is_a_posterior_mean_or_an_euler_mean(solver: str) -> None:
    """gDDIM ends at E[u(0) | u(eps)], exact for Gaussian data; the others with one Euler mean of length eps."""
    table = build_table(CONSTANT, SolverOptions(solver, 5, grid="quadratic"))
    before = propagate(StepTable.of(table.rows[:-1]), CONSTANT, (MEAN, STD), prior(CONSTANT))
    after = propagate(table, CONSTANT, (MEAN, STD), prior(CONSTANT))
    assert table.nfe == 5 and table.draws[-1] is None
    here = marginal(CONSTANT, 1e-3, MEAN, STD)
    if solver == "gddim":
        joint = CONSTANT.propagator(0.0, 1e-3) @ np.diag([STD**2, CONSTANT.gamma * CONSTANT.mass])
        gain = joint.T @ np.linalg.inv(here.covariance)
        wanted = np.array([MEAN, 0.0]) + gain @ (before.mean - here.mean)
        assert np.allclose(after.mean, wanted, rtol=1e-9, atol=1e-12)
    else:
        drift, force = CONSTANT.drift(1e-3), CONSTANT.diffusion(1e-3) ** 2
        score = -np.linalg.inv(here.covariance)[1] @ (before.mean - here.mean)
        wanted = before.mean - 1e-3 * (drift @ before.mean - np.array([0.0, force * score]))
        assert np.allclose(after.mean, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["em", "sscs", "gddim"])
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "sqrt"])
def test_ten_thousand_steps_are_finite(solver: str, grid: str) -> None:
    """Tables of 10 000 steps down to t = 1e-5 have no NaN, in float64 or as the float32 that the kernels read."""
    table = build_table(CONSTANT, SolverOptions(solver, 10_000, grid=grid, eps=1e-5))
    model = GaussianMixture.gaussian(CONSTANT, MEAN, STD, (1, 1, 1))
    assert program_for(model, table, "cpu").device_table.coefficients.isfinite().all()
    drawn = [row for row in table.rows if row.has_noise]
    if solver == "sscs":
        assert all((np.diag(row.noise).astype(np.float32) > 0).all() for row in drawn)


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (VPSDE(), {"solver": "sscs"}, "'sscs' is not defined on the SDE 'vpsde', only on 'cld'"),
        (VESDE(), {"solver": "gddim"}, "'gddim' is not defined on the SDE 'vesde', only on 'cld'"),
        (CONSTANT, {"solver": "ancestral"}, "on 'cld' choose from: euler_maruyama, gddim, sscs"),
        (CONSTANT, {"solver": "pc"}, "is not defined on the SDE 'cld'"),
        (CONSTANT, {"solver": "sscs", "corrector": "langevin"}, "corrector 'langevin' is not defined on the SDE 'cld'"),
        (CONSTANT, {"solver": "sscs", "probability_flow": True}, "no probability-flow form"),
        (CONSTANT, {"solver": "sscs", "steps": 1}, "steps is 1; it must be a whole number of at least 2"),
        (CONSTANT, {"solver": "sscs", "order": 2}, "solver 'sscs' has order 1 alone"),
        (CONSTANT, {"solver": "gddim", "eta": 0.5}, "eta is 0.5; solver 'gddim' has 0, the probability flow, and 1"),
        (CONSTANT, {"solver": "gddim", "order": 5}, "order is 5; solver 'gddim' has the orders 1 to 4"),
        (
            CONSTANT,
            {"solver": "em", "original": True},
            "original is True; solver 'euler_maruyama' has none: .* choose sscs",
        ),
        (CLDSDE(objective="dsm"), {"solver": "gddim"}, "use a model trained by 'hsm', or solver 'em' or 'sscs'"),
        (CLDSDE(friction=0.4), {"solver": "gddim"}, "friction 0.4, which is under-damped"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, object], sentence: str) -> None:
    """One clear sentence, before any step is taken."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**{"steps": 20, **options}))


def test_covariances_have_factors_at_any_step_length() -> None:
    """The Cholesky factor of a half step is real down to clocks of 1e-12, and reproduces the covariance."""
    for clock in np.logspace(-12, 1, 40):
        covariance = CONSTANT.advance(clock).covariance
        factor = cholesky(covariance)
        assert np.allclose(factor @ factor.T, covariance, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("sde", "solver"), [(VPSDE(), "em"), (CONSTANT, "em"), (CONSTANT, "gddim")])
def test_a_mixed_score_is_folded_into_the_rows(sde: SDE, solver: str) -> None:
    """What a mixed score adds of the state is in the table: a run agrees with one that evaluates `score` itself."""
    model = ScoreFunction(
        Recorded() if sde.parts == 2 else Wave(),
        Parametrisation(sde, mixed=True, label_scale=1.0),
        (2, 3, 3),
        centered=True,
    )
    table = build_table(sde, SolverOptions(solver, 12, grid="quadratic", probability_flow=True))
    start = model.prior(torch.randn(4, *model.state_shape, generator=torch.Generator().manual_seed(0)))
    u, derived = start.double(), []
    for row in table.rows:
        matrices = [np.reshape(m, (sde.parts, -1)) for m in (row.state, *row.derive, *row.outputs)]
        state, from_state, from_score, *outputs = map(torch.from_numpy, matrices)
        score = model.score(u, torch.full((len(u),), row.t, dtype=torch.float64))

        def act(matrix: Tensor, x: Tensor) -> Tensor:
            parts = x.unflatten(1, (matrix.shape[1], -1))
            return torch.einsum("pq,bqcij->bpcij", matrix.double(), parts).flatten(1, 2)

        derived = [act(from_state, u) + act(from_score, score), *derived[:3]]
        u = act(state, u) + sum(act(m, d) for m, d in zip(outputs, derived, strict=False))
    assert (run(model, table, start).double() - u).abs().max() <= 2e-5 * u.abs().max()


def test_langevin_refuses_a_mixed_score() -> None:
    """The corrector's step size is set by a score that is the network's output; a mixed one is refused by name."""
    model = ScoreFunction(nn.Identity(), Parametrisation(VPSDE(), mixed=True), (1, 2, 2), centered=True)
    table = build_table(VPSDE(), SolverOptions("em", 50, "langevin"))
    with pytest.raises(ValueError, match="choose corrector='none' for a model with a mixed score"):
        program_for(model, table, "cpu")

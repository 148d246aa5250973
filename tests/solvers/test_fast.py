# SPDX-License-Identifier: Apache-2.0
"""The fast solvers' tables are the published formulas, and exact where they should be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import GRIDS, SOLVERS, Row, SolverOptions, StepTable, build_table, make_grid
from scoresde_fast.solvers.moments import marginal, prior, propagate
from scoresde_fast.solvers.noise_levels import Levels
from scoresde_fast.solvers.registry import ALIASES
from tests.solvers.test_orders import FAST, Mixture
from tests.solvers.test_score_sde import MEAN, SDE_OF, STD

TITLES: dict[type[SDE], str] = {VESDE: "VE", VPSDE: "VP", SubVPSDE: "sub-VP", CLDSDE: "CLD"}
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "solvers.md").read_text()
STEPS = 6
X = np.linspace(-1.5, 2.0, 7)
FORMS: list[tuple[str, dict[str, Any]]] = [
    *[(found.name, {"order": order}) for found in FAST for order in found.orders],
    *[(solver, {"eta": 0.6}) for solver in ("ddim", "dpmpp_2m_sde", "sa")],
    ("ddim", {"eta": 1.0}),
    ("heun", {"churn": 1.5}),
]
FORM_IDS = ["-".join([solver, *(f"{name}{value}" for name, value in options.items())]) for solver, options in FORMS]


def rows_of(sde: ScalarSDE, solver: str, **options: Any) -> list[Row]:
    """The rows of a run from T to eps on a grid of uneven steps, without denoising."""
    chosen: dict[str, Any] = {"grid": "sqrt", "denoise": False, "eps": 0.01, **options}
    return [row for row in build_table(sde, SolverOptions(solver, STEPS, **chosen)).rows if isinstance(row, Row)]


def levels_of(sde: ScalarSDE) -> Levels:
    """Signal and noise at the edges of those steps."""
    return Levels.at(sde, make_grid("sqrt", sde, STEPS, 0.01).edges)


def one_step(row: Row) -> tuple[float, float, float]:
    """A row without a past as coefficients of x, of the score and of the noise."""
    assert row.derive is not None and not np.any(row.outputs[1:])
    return row.state + row.outputs[0] * row.derive[0], row.outputs[0] * row.derive[1], row.noise


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_as_published(eta: float) -> None:
    """Equations 12 and 16 of Song, Meng & Ermon, in their own alphas, on VP."""
    alphas = VPSDE().marginal(make_grid("sqrt", VPSDE(), STEPS, 0.01).edges).scale ** 2
    for row, a, b in zip(rows_of(VPSDE(), "ddim", eta=eta), alphas[:-1], alphas[1:], strict=True):
        sigma = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
        noise = np.sqrt(1 - b - sigma**2) - np.sqrt(b / a) * np.sqrt(1 - a)
        assert row.derive == (0.0, pytest.approx(-np.sqrt(1 - a)))
        assert (row.state, *row.outputs, row.noise) == pytest.approx((np.sqrt(b / a), noise, sigma), rel=1e-10)


def test_ddim_with_all_noise_is_ancestral() -> None:
    """On VE with eta = 1 it is the posterior's ancestral sampling, step by step."""
    for ddim, ancestral in zip(rows_of(VESDE(), "ddim", eta=1.0), rows_of(VESDE(), "ancestral"), strict=True):
        assert one_step(ddim) == pytest.approx(one_step(ancestral), rel=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *[("deis", order) for order in (2, 3, 4)],
        *[("ipndm", order) for order in (2, 3, 4)],
        *[("unipc", order) for order in (1, 2, 3)],
        *[("sa", order) for order in (1, 2, 3)],
        *[(solver, None) for solver in ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde")],
    ],
)
def test_the_first_step_is_ddim(name: str, solver: str, order: int | None) -> None:
    """Without a past every multistep method of the flow is DDIM, whatever it predicts, and so is a run of one step."""
    first = rows_of(SDE_OF[name], solver, order=order, probability_flow=True)[0]
    assert one_step(first) == pytest.approx(one_step(rows_of(SDE_OF[name], "ddim")[0]), rel=1e-9, abs=1e-12)


def test_noise_at_eta_one_is_the_posterior() -> None:
    """The first steps of the stochastic methods at eta = 1 are DDIM's too."""
    wanted = one_step(rows_of(VPSDE(), "ddim", eta=1.0)[0])
    assert one_step(rows_of(VPSDE(), "dpmpp_2m_sde")[0]) == pytest.approx(wanted, rel=1e-9)
    assert one_step(rows_of(VPSDE(), "sa")[0]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
def test_the_flow_of_the_sde_variant_is_dpmpp_2m(name: str) -> None:
    """probability_flow=True and eta=0 are one thing, and the table is that of the deterministic solver."""
    wanted = rows_of(SDE_OF[name], "dpmpp_2m")
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", probability_flow=True) == wanted
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", eta=0.0) == wanted


def data_prediction(sde: ScalarSDE, levels: Levels, i: int, x: Array) -> Array:
    """E[x(0) | x] of the mixture at the i-th edge."""
    score = Mixture().score(sde, x, levels.times[i])
    return (x + levels.std[i] ** 2 * score) / levels.scale[i]


@pytest.mark.parametrize("name", SDE_OF)
def test_dpmpp_2m_is_as_published(name: str) -> None:
    """Algorithm 2 of Lu et al., written with its own r and D, takes every point of a mixture to the same place."""
    sde = SDE_OF[name]
    levels, x = levels_of(sde), sde.prior_std * X
    a, s, h = levels.scale, levels.std, levels.widths
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "dpmpp_2m")), x)
    previous = None
    for i in range(STEPS):
        newest = data_prediction(sde, levels, i, x)
        r = h[i - 1] / h[i] if i else np.inf
        d = newest if previous is None else (1 + 1 / (2 * r)) * newest - 1 / (2 * r) * previous
        x, previous = s[i + 1] / s[i] * x - a[i + 1] * (np.exp(-h[i]) - 1) * d, newest
    assert np.allclose(end, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SDE_OF)
def test_unipc_is_predictor_and_corrector(name: str) -> None:
    """UniPC-2 as two formulas with two states, the corrected one the next step's: one row a step does the same."""
    sde = SDE_OF[name]
    levels, x = levels_of(sde), sde.prior_std * X
    a, s, h = levels.scale, levels.std, levels.widths
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "unipc", order=2)), x)
    outputs = [data_prediction(sde, levels, 0, x)]
    for i in range(STEPS):
        b = np.expm1(-h[i])  # B(h) of data prediction, whose -h is the paper's h
        base = s[i + 1] / s[i] * x - a[i + 1] * b * outputs[0]
        past = [(outputs[1] - outputs[0]) / (-h[i - 1] / h[i])] if i else []
        predicted = base - a[i + 1] * b * 0.5 * past[0] if i else base
        if i == STEPS - 1:
            break
        newest = data_prediction(sde, levels, i + 1, predicted)
        # R(h) rho B(h) = phi(h) for the points r of the past and 1, whose differences are divided by r
        r = [*([-h[i - 1] / h[i]] if i else []), 1.0]
        phi = [np.expm1(-h[i]) / -h[i] - 1]
        phi.append(phi[0] / -h[i] - 0.5)
        right = [phi[0] / b, 2 * phi[1] / b]
        rho = np.linalg.solve([[1.0, 1.0], r], right) if i else [0.5]
        differences = [*past, newest - outputs[0]]
        x = base - a[i + 1] * b * sum(w * d for w, d in zip(rho, differences, strict=True))
        outputs = [newest, outputs[0]]
    assert np.allclose(end, predicted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", SDE_OF)
def test_sa_is_predictor_and_corrector(name: str, tau: float) -> None:
    """SA-Solver of order 1 as two formulas that share a normal field: one row a step does the same."""
    sde, rate = SDE_OF[name], 1 + tau**2
    levels, x, normal = levels_of(sde), sde.prior_std * X, np.random.default_rng(0).normal(size=(STEPS, len(X)))
    a, s, h = levels.scale, levels.std, levels.widths
    rows = rows_of(sde, "sa", order=1, eta=tau)
    state, derived = x, np.zeros((2, len(X)))
    for i, (row, z) in enumerate(zip(rows, normal, strict=True)):
        derived = np.stack([data_prediction(sde, levels, i, state), derived[0]])
        state = row.state * state + np.array(row.outputs) @ derived + row.noise * z
    newest = data_prediction(sde, levels, 0, x)
    for i, z in enumerate(normal):
        kept = s[i + 1] / s[i] * np.exp(-(tau**2) * h[i]) * x + s[i + 1] * np.sqrt(1 - np.exp(-2 * tau**2 * h[i])) * z
        whole = a[i + 1] * (1 - np.exp(-rate * h[i]))
        predicted = kept + whole * newest
        if i == STEPS - 1:
            break
        last, newest = newest, data_prediction(sde, levels, i + 1, predicted)
        at_end = a[i + 1] - whole / (rate * h[i])  # the weight of a line that rises from 0 to 1
        x = kept + at_end * newest + (whole - at_end) * last
    assert np.allclose(state, predicted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("solver", "options"), FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_a_point_is_solved_exactly(name: str, solver: str, options: dict[str, Any]) -> None:
    """Data in one point has constant predictions: three long steps of any form end in the exact distribution.

    The variance is a small difference of large numbers: the last bit of a coefficient moves it by up to 4e-10, the mean
    by 1e-14.
    """
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 3, grid="karras", denoise=False, eps=0.1, **options))
    got = propagate(table, sde, (MEAN, 0.0), marginal(sde, sde.T, MEAN, 0.0))
    wanted = marginal(sde, 0.1, MEAN, 0.0)
    assert got.mean == pytest.approx(wanted.mean, rel=1e-12)
    assert got.covariance == pytest.approx(wanted.covariance, rel=1e-8)


@pytest.mark.parametrize(("solver", "options"), FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_denoising_is_the_posterior_mean(name: str, solver: str, options: dict[str, Any]) -> None:
    """With denoising the last step is one evaluation at eps, and its result E[x(0) | x(eps)] of Gaussian data."""
    sde, eps = SDE_OF[name], SDE_OF[name].sampling_eps
    chosen = SolverOptions(solver, 8, grid="logsnr", **options)
    table = build_table(sde, chosen)
    before = StepTable.of(table.rows[:-1])
    assert table.rows[-1].t == eps and table.draws[-1] is None
    assert (
        table.nfe
        == 7 * SOLVERS[solver].evaluations + 1
        == build_table(sde, replace(chosen, steps=7, denoise=False)).nfe + 1
    )
    here, state = marginal(sde, eps, MEAN, STD), propagate(before, sde, (MEAN, STD), prior(sde))
    gain = sde.marginal(eps).scale * STD**2 / here.covariance[0, 0]
    after = propagate(table, sde, (MEAN, STD), prior(sde))
    assert after.mean == pytest.approx(MEAN + gain * (state.mean - here.mean), rel=1e-9)
    assert after.covariance == pytest.approx(gain**2 * state.covariance, rel=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_grids_end_at_eps(name: str, grid: str) -> None:
    """The fast solvers' steps fall from T to eps, through the times that are asked for, and so do parts of the way."""
    sde = SDE_OF[name]
    whole = make_grid(grid, sde, 12, 0.01, through=(0.3, 0.05), published=False).edges
    assert len(whole) == 13 and (whole[0], whole[-1]) == pytest.approx((1.0, 0.01), rel=1e-12)
    assert {0.3, 0.05} <= set(whole) and (np.diff(whole) < 0).all()
    part = make_grid(grid, sde, 5, 0.2, start=0.6, published=False).edges
    assert len(part) == 6 and (np.diff(part) < 0).all()
    assert (part[0], part[-1]) == pytest.approx((0.6, 0.2), rel=1e-12)


@pytest.mark.parametrize("name", SDE_OF)
def test_logsnr_grid_is_even(name: str) -> None:
    """Its steps are equal in log(scale / std)."""
    widths = Levels.at(SDE_OF[name], make_grid("logsnr", SDE_OF[name], 20, 1e-3).edges).widths
    assert widths == pytest.approx(np.full(20, widths.mean()), rel=1e-9)


def documented(name: str) -> str:
    """The row of a solver in the table of docs/solvers.md."""
    found = SOLVERS[name]
    named = [alias for alias, of in ALIASES.items() if of == name]
    sdes = ", ".join(TITLES[sde] for sde in TITLES if sde in found.sdes)
    orders = ", ".join(str(found.convergence(order)) for order in found.orders)
    noisy = [] if found.deterministic and not {"eta", "churn"} & set(found.options) else found.orders
    weak = ", ".join(str(found.convergence(order, noisy=True)) for order in noisy)
    options = [
        *(["`order` " + ", ".join(map(str, found.orders))] if len(found.orders) > 1 else []),
        *(["`probability_flow`"] if found.probability_flow and not found.deterministic else []),
        *([f"`eta` {found.options['eta']:g}"] if "eta" in found.options else []),
        *(["`churn` 0"] if "churn" in found.options else []),
        *(["`original`"] if "original" in found.options else []),
        *(["correctors"] if found.correctable else []),
    ]
    title = " or ".join(f"`{each}`" for each in [name, *named])
    flow_orders = orders if found.probability_flow else "-"
    return f"| {title} | {sdes} | {flow_orders} | {weak or '-'} | {found.evaluations} | {', '.join(options) or '-'} |"


@pytest.mark.parametrize("name", SOLVERS)
def test_the_page_is_the_registry(name: str) -> None:
    """docs/solvers.md has a row and a section for every solver, with what the registry knows of it."""
    assert documented(name) in PAGE
    assert f"### {name}\n" in PAGE
    section = PAGE.split(f"### {name}\n")[1].split("\n### ")[0]
    assert SOLVERS[name].source in " ".join(section.split())


def test_the_pages_examples_run() -> None:
    """Every Python block of docs/solvers.md runs as it stands, and the solver it registers samples like the others."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    try:
        for block in blocks:
            exec(compile(block, "solvers.md", "exec"), {"__name__": "solvers"})
        mine = build_table(VPSDE(), SolverOptions("my_euler", 400, grid="sqrt", denoise=False))
        got = propagate(mine, VPSDE(), (MEAN, STD), prior(VPSDE()))
        assert np.sqrt(got.covariance[0, 0]) == pytest.approx(STD, rel=0.01)
    finally:
        SOLVERS.pop("my_euler", None)

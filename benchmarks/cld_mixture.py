# SPDX-License-Identifier: Apache-2.0
"""CLD's solvers where the score is exact: python benchmarks/cld_mixture.py

A mixture on a line, .3 N(-.8) + .5 N(-.1) + .2 N(.6) of deviation .05: how far the samples are from it, how far
deterministic solvers end from the solution of their ODE, and the orders of convergence on Gaussian data.  Writes
benchmarks/results/cld-mixture.json and docs/cld-mixture.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cld import DOCS, NAMES, RESULTS
from scipy.integrate import solve_ivp
from scipy.special import ndtr
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.bench.machine import provenance
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import PairRow, SolverOptions, build_table
from scoresde_fast.solvers.gaussian import marginal, propagate

Array = npt.NDArray[np.float64]

SDE = CLDSDE()
WEIGHTS, MEANS, STD = (0.3, 0.5, 0.2), (-0.8, -0.1, 0.6), 0.05

STEPS = (20, 30, 50, 75, 100, 150, 200, 300, 500)
FIELD = 64
"""A sample of the sampler holds FIELD^2 independent particles, one a pixel."""
BATCH = 8
GRIDS = ("quadratic", "uniform")

EVALUATIONS = (10, 20, 50, 100)
GAUSSIAN = (0.3, 0.5)
ORDER_SIZES = (200, 400, 800)


class MixtureVelocityScore(nn.Module):
    """The exact score of v in every pixel: (B, 2, H, W), and one time for all -> (B, 1, H, W).

    The components share one covariance P^-1 and lie at Q m_k: the score is (P (Q E[m | u] - u))_v.
    """

    means: Tensor
    log_weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(MEANS, dtype=torch.float64).view(-1, 1, 1, 1))
        self.register_buffer("log_weights", torch.tensor(WEIGHTS, dtype=torch.float64).log().view(-1, 1, 1, 1))

    @staticmethod
    @cache
    def _coefficients(t: float) -> tuple[float, ...]:
        mean, covariance = SDE.marginal(t, STD**2)
        q, precision = mean[:, 0], np.linalg.inv(covariance)
        return (*map(float, precision[1]), *map(float, precision @ q), float(q @ precision @ q))

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        on_x, on_v, gain_x, gain_v, size = self._coefficients(float(t[0]))
        x, v = u.unbind(1)
        means, log_weights = self.means.to(u.dtype), self.log_weights.to(u.dtype)
        posterior = (means * (gain_x * x + gain_v * v) + (log_weights - size / 2 * means**2)).softmax(0)
        return (gain_v * (posterior * means).sum(0) - on_x * x - on_v * v).unsqueeze(1)


def model(field: int = FIELD) -> ScoreFunction:
    """The exact score model of field^2 independent particles a sample."""
    return ScoreFunction(MixtureVelocityScore(), ExactScore(SDE), (1, field, field), centered=False, is_image=False)


def quantiles(count: int) -> Array:
    """The mixture's quantiles at (i + 1/2) / count, by bisection to the last bit."""
    wanted = (np.arange(count) + 0.5) / count
    lower, upper = np.full(count, -2.0), np.full(count, 2.0)
    for _ in range(56):
        middle = (lower + upper) / 2
        below = sum(w * ndtr((middle - m) / STD) for w, m in zip(WEIGHTS, MEANS, strict=True)) < wanted
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return (lower + upper) / 2


def wasserstein(values: Array, exact: Array) -> float:
    """2-Wasserstein distance of as many values to the distribution with the quantiles ``exact``."""
    return float(np.sqrt(((np.sort(values) - exact) ** 2).mean()))


def exact_draws(count: int, seed: int) -> Array:
    """``count`` draws of the mixture itself."""
    generator = np.random.default_rng(seed)
    return generator.choice(MEANS, count, p=WEIGHTS) + STD * generator.normal(size=count)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard error of runs, and the runs."""
    return {"mean": float(np.mean(values)), "standard_error": _error(values), "runs": list(values)}


def distances(
    steps: Sequence[int], runs: int, fields: int, grids: Sequence[str], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """W2 to the data of ``runs`` runs of fields * FIELD^2 particles each; both solvers begin at the same states.

    The distance of all runs' particles together is ``pooled``; that of single runs tells what chance does to it.
    ``keep`` is given the rows so far after every row.
    """
    count = fields * FIELD**2
    exact = quantiles(count)
    pooled = quantiles(runs * count)

    def describe(draws: list[Array]) -> dict[str, Any]:
        return {"pooled": wasserstein(np.concatenate(draws), pooled), **spread([wasserstein(d, exact) for d in draws])}

    floor = describe([exact_draws(count, seed) for seed in range(runs)])
    floor |= {"pooled": float(np.mean([wasserstein(exact_draws(len(pooled), seed), pooled) for seed in range(runs)]))}
    rows: list[dict[str, Any]] = []
    result = {"particles_a_run": count, "runs": runs, "denoise": True, "floor": floor, "rows": rows}
    for grid, n in product(grids, steps):
        begin = time.perf_counter()
        found = {
            solver: [
                sf.sample(model(), range(fields), solver=solver, steps=n, grid=grid, run_seed=run, batch_size=BATCH)
                .flatten()
                .double()
                .numpy()
                for run in range(runs)
            ]
            for solver in ("sscs", "em")
        }
        row: dict[str, Any] = {"grid": grid, "steps": n, **{name: describe(draws) for name, draws in found.items()}}
        difference = np.subtract(row["em"]["runs"], row["sscs"]["runs"]).tolist()
        row["difference"] = float(np.mean(difference))
        row["difference_in_standard_errors"] = row["difference"] / _error(difference)
        rows.append(row)
        keep(result)
        print(
            f"{grid:9} n={n:3}  SSCS {row['sscs']['pooled']:.4f}  EM {row['em']['pooled']:.4f}  apart by "
            f"{row['difference_in_standard_errors']:.1f} standard errors  {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    return result


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def velocity_score(u: Array, t: float) -> Array:
    """(N, 2) -> (N,), in float64."""
    states = torch.from_numpy(u).view(-1, 2, 1, 1)
    score: Tensor = model(1).network(states, torch.full((len(u),), t, dtype=torch.float64))
    return score.view(-1).numpy()


def converged(start: Array, eps: float) -> Array:
    """The probability flow from the states ``start`` (N, 2) at T to eps, to 1e-9."""

    def slope(t: float, flat: Array) -> Array:
        u = flat.reshape(-1, 2)
        drift = u @ SDE.drift(t).T
        drift[:, 1] -= 0.5 * float(SDE.diffusion(t)) ** 2 * velocity_score(u, t)
        return drift.ravel()

    solution = solve_ivp(slope, (SDE.T, eps), start.ravel(), method="DOP853", rtol=1e-8, atol=1e-9)
    end: Array = solution.y[:, -1].reshape(-1, 2)
    return end


def run_in_float64(options: SolverOptions, u: Array) -> Array:
    """The table's run from the states (N, 2) at T."""
    derived: list[Array] = []
    for row in build_table(SDE, options).rows:
        assert isinstance(row, PairRow) and row.derive is not None
        matrix, on_score = row.derive
        derived = [u @ matrix.T + np.outer(velocity_score(u, row.t), on_score), *derived[:3]]
        u = u @ row.state.T + sum(d @ m.T for d, m in zip(derived, row.outputs, strict=False))
    return u


def ode_errors(particles: int, evaluations: Sequence[int] = EVALUATIONS) -> dict[str, Any]:
    """RMS over the particles of x at eps, against the converged flow from the same states at T."""
    start: Array = np.random.default_rng(0).normal(size=(particles, 2)) * SDE.prior_stds
    exact = converged(start, SDE.sampling_eps)
    rows = []
    for solver, order in (("em", None), *(("gddim", order) for order in (1, 2, 3, 4))):
        for nfe in evaluations:
            options = SolverOptions(solver, nfe, grid="sqrt", probability_flow=True, denoise=False, order=order)
            away = (run_in_float64(options, start) - exact)[:, 0]
            rows.append({"solver": solver, "order": order, "nfe": nfe, "rms": float(np.sqrt((away**2).mean()))})
            print(f"{solver} order {order}, {nfe} evaluations: {rows[-1]['rms']:.4f}", flush=True)
    return {"particles": particles, "grid": "sqrt", "eps": SDE.sampling_eps, "dtype": "float64", "rows": rows}


def orders(sizes: Sequence[int] = ORDER_SIZES) -> list[dict[str, Any]]:
    """Errors in mean and covariance at eps on Gaussian data from its own marginal at T, and their slope."""
    rows = []
    cases = [("em", False, None), ("em", True, None), ("sscs", False, None)]
    for solver, flow, order in (*cases, *(("gddim", True, order) for order in (1, 2, 3, 4))):
        errors = []
        for steps in sizes:
            options = SolverOptions(solver, steps, grid="quadratic", probability_flow=flow, order=order, denoise=False)
            got = propagate(build_table(SDE, options), SDE, GAUSSIAN, marginal(SDE, SDE.T, *GAUSSIAN))
            wanted = marginal(SDE, SDE.sampling_eps, *GAUSSIAN)
            parts = (np.abs(got.mean - wanted.mean).max(), np.abs(got.covariance - wanted.covariance).max())
            errors.append(float(sum(parts)))
        slope = -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
        named = {str(size): error for size, error in zip(sizes, errors, strict=True)}
        rows.append({"solver": solver, "flow": flow, "claimed": order or 1, "measured": slope, "errors": named})
    return rows


def plot(result: dict[str, Any], path: Path) -> None:
    """Distances against steps on both grids, and the errors to the ODE against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    part = result["distance"]
    for axis, grid in zip(axes, GRIDS, strict=False):
        rows = [row for row in part["rows"] if row["grid"] == grid]
        n = [row["steps"] for row in rows]
        for solver, marker in (("em", "s"), ("sscs", "o")):
            values = [row[solver]["pooled"] for row in rows]
            axis.plot(n, values, marker=marker, markersize=4, label=NAMES[solver])
        axis.axhline(part["floor"]["pooled"], color="gray", linestyle=":", label="exact draws")
        axis.set(title=f"2-Wasserstein distance, {grid} grid", xscale="log", yscale="log")
        axis.set_xticks(n[::2], [str(steps) for steps in n[::2]])
    part = result["ode"]
    for solver, order in dict.fromkeys((row["solver"], row["order"]) for row in part["rows"]):
        rows = [row for row in part["rows"] if (row["solver"], row["order"]) == (solver, order)]
        n = [row["nfe"] for row in rows]
        label = "Euler" if solver == "em" else f"gDDIM, order {order}"
        axes[2].plot(n, [row["rms"] for row in rows], marker="o", markersize=4, label=label)
    axes[2].set(title="RMS error of x to the converged ODE", xscale="log", yscale="log")
    axes[2].set_xticks(n, [str(nfe) for nfe in n])
    for axis in axes:
        axis.set_xlabel("evaluations")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=12, help="independent runs of every solver")
    parser.add_argument("--fields", type=int, default=64, help=f"samples of {FIELD}^2 particles in a run")
    parser.add_argument("--particles", type=int, default=20_000, help="particles of the errors to the ODE")
    parser.add_argument("--out", type=Path, default=RESULTS / "cld-mixture.json")
    parser.add_argument("--picture", type=Path, default=DOCS / "cld-mixture.png")
    parser.add_argument("--plot", action="store_true", help="only draw the picture of what is in --out")
    arguments = parser.parse_args()
    if not arguments.plot:
        result: dict[str, Any] = {"mixture": {"weights": WEIGHTS, "means": MEANS, "std": STD}}
        result |= {"orders": orders(), "ode": ode_errors(arguments.particles)}

        def keep(part: dict[str, Any]) -> None:
            whole = {**result, "distance": part, **provenance()}
            arguments.out.write_text(json.dumps(whole, indent=1) + "\n")

        distances(STEPS, arguments.runs, arguments.fields, GRIDS, keep)
    plot(json.loads(arguments.out.read_text()), arguments.picture)


if __name__ == "__main__":
    main()

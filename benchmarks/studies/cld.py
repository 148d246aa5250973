# SPDX-License-Identifier: Apache-2.0
"""CLD's solvers: python -m benchmarks.studies.cld mixture | digits [MODEL]

mixture  where the score is exact: a mixture on a line, .3 N(-.8) + .5 N(-.1) + .2 N(.6) of deviation .05. How far the
         samples are from it, how far deterministic solvers end from the solution of their ODE, and the orders of
         convergence on Gaussian data. Into cld-mixture.json, which `benchmarks.studies.pictures` draws.
digits   the same seeds by each solver, grid, order and number of evaluations: the Frechet distance to the data in the
         features of digits-features, how many a support vector classifier recognises, and whether the tint is that of
         the class. Every row is written to cld-digits.json as it is made; a second call goes on after the last one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import solve_ivp
from scipy.special import ndtr
from torch import Tensor, nn

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from benchmarks.studies.embedded import data, real_digits
from scoresde_fast.evaluation import Recogniser, frechet_distance
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import PairRow, SolverOptions, build_table
from scoresde_fast.solvers.gaussian import marginal, propagate

Array = npt.NDArray[np.float64]
Case = dict[str, Any]

SDE = CLDSDE()
WEIGHTS, MEANS, STD = (0.3, 0.5, 0.2), (-0.8, -0.1, 0.6), 0.05

STEPS = (20, 30, 50, 75, 100, 150, 200, 300, 500)
FIELD = 64
"""A sample holds FIELD^2 independent particles, one a pixel."""
BATCH = 8
GRIDS = ("quadratic", "uniform")

EVALUATIONS = (10, 20, 50, 100)
GAUSSIAN = (0.3, 0.5)
ORDER_SIZES = (200, 400, 800)

STOCHASTIC_STEPS = (50, 100)
GDDIM_STEPS = (20, 50, 10)
GDDIM_GRIDS = (("quadratic", None), ("sqrt", 0.02))
"""Grids with their last time; None is the model's.  A network's error in the velocity's score grows like 1 / t in the
position's, so stopping earlier may be better."""
NOISY_GDDIM: dict[str, Any] = {"grid": "logsnr", "eps": 0.005, "eta": 1.0}
"""A good grid for gDDIM's noisy form: even steps in the logarithm of the signal-to-noise ratio."""
KEYS = ("solver", "grid", "order", "steps", "eps", "eta")


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
    """Return the exact score model of field^2 independent particles a sample."""
    return ScoreFunction(MixtureVelocityScore(), ExactScore(SDE), (1, field, field), centered=False, is_image=False)


def quantiles(count: int) -> Array:
    """Return the mixture's quantiles at (i + 1/2) / count, by bisection to the last bit."""
    wanted = (np.arange(count) + 0.5) / count
    lower, upper = np.full(count, -2.0), np.full(count, 2.0)
    for _ in range(56):
        middle = (lower + upper) / 2
        below = sum(w * ndtr((middle - m) / STD) for w, m in zip(WEIGHTS, MEANS, strict=True)) < wanted
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return (lower + upper) / 2


def wasserstein(values: Array, exact: Array) -> float:
    """Return the 2-Wasserstein distance of values to the distribution with the quantiles ``exact``, equal in number."""
    return float(np.sqrt(((np.sort(values) - exact) ** 2).mean()))


def exact_draws(count: int, seed: int) -> Array:
    """Draw ``count`` values of the mixture."""
    generator = np.random.default_rng(seed)
    return generator.choice(MEANS, count, p=WEIGHTS) + STD * generator.normal(size=count)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and standard error of runs, and the runs."""
    return {"mean": float(np.mean(values)), "standard_error": _error(values), "runs": list(values)}


def distances(
    steps: Sequence[int], runs: int, fields: int, grids: Sequence[str], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Return W2 to the data of ``runs`` runs of fields * FIELD^2 particles each; both solvers start at the same states.

    The distance of all runs' particles together is ``pooled``; the distances of single runs show its chance error.
    ``keep`` gets the rows so far after every row.
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
    """Return the velocity's score, (N, 2) -> (N,), in float64."""
    states = torch.from_numpy(u).view(-1, 2, 1, 1)
    score: Tensor = model(1).network(states, torch.full((len(u),), t, dtype=torch.float64))
    return score.view(-1).numpy()


def converged(start: Array, eps: float) -> Array:
    """Integrate the probability flow from the states ``start`` (N, 2) at T to eps, to 1e-9."""

    def slope(t: float, flat: Array) -> Array:
        u = flat.reshape(-1, 2)
        drift = u @ SDE.drift(t).T
        drift[:, 1] -= 0.5 * float(SDE.diffusion(t)) ** 2 * velocity_score(u, t)
        return drift.ravel()

    solution = solve_ivp(slope, (SDE.T, eps), start.ravel(), method="DOP853", rtol=1e-8, atol=1e-9)
    end: Array = solution.y[:, -1].reshape(-1, 2)
    return end


def run_in_float64(options: SolverOptions, u: Array) -> Array:
    """Run the solver's table from the states (N, 2) at T."""
    derived: list[Array] = []
    for row in build_table(SDE, options).rows:
        assert isinstance(row, PairRow) and row.derive is not None
        matrix, on_score = row.derive
        derived = [u @ matrix.T + np.outer(velocity_score(u, row.t), on_score), *derived[:3]]
        u = u @ row.state.T + sum(d @ m.T for d, m in zip(derived, row.outputs, strict=False))
    return u


def ode_errors(particles: int, evaluations: Sequence[int] = EVALUATIONS) -> dict[str, Any]:
    """Return the RMS error over the particles of x at eps, against the converged flow from the same states at T."""
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
    """Return errors in mean and covariance at eps on Gaussian data from its marginal at T, and their slope."""
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


def cases() -> list[Case]:
    """Return the cases of the digits, the most compared ones first."""

    def case(solver: str, steps: int, **options: Any) -> Case:
        return {**dict.fromkeys(KEYS), "solver": solver, "steps": steps, **options}

    noisy = [
        case(solver, steps, grid=grid)
        for steps in STOCHASTIC_STEPS
        for grid in ("quadratic", "uniform")
        for solver in ("sscs", "em")
    ]
    flows = [
        case("gddim", steps, grid=grid, order=order, eps=eps)
        for steps in GDDIM_STEPS
        for grid, eps in GDDIM_GRIDS
        for order in (1, 2, 3, 4)
    ]
    reverse = [case("gddim", steps, order=order, **NOISY_GDDIM) for steps in GDDIM_STEPS for order in (2, 3)]
    first = len(noisy) // len(STOCHASTIC_STEPS)
    return [*noisy[:first], *reverse, *flows, *noisy[first:]]


def digits(
    name: str, chosen: Iterable[Case], samples: int, batch_size: int, out: Path, recogniser: Recogniser
) -> dict[str, Any]:
    """Add the cases that ``out`` does not hold yet; returns all of it.

    Raises:
        ValueError: ``out`` holds rows of another model, of other weights, or of another number of samples.
    """
    model = sf.load(name)
    same = {"model": name, "weights_sha256": sf.Sampler(model).describe()["model"]["weights_sha256"]}
    same |= {"samples": samples}
    result = json.loads(out.read_text()) if out.exists() else {**same, **real_digits(recogniser), "rows": []}
    for key, value in same.items():
        if result[key] != value:
            raise ValueError(f"{out} has {key} {result[key]!r}, not {value!r}: choose another --out or remove it")
    done = [{key: row[key] for key in KEYS} for row in result["rows"]]
    for case in chosen:
        if case in done:
            continue
        sampler = sf.Sampler(model, **case, batch_size=batch_size)
        begin = time.perf_counter()
        images = sampler.sample(range(samples))
        seconds = time.perf_counter() - begin
        report, distance = asdict(recogniser.report(images)), frechet_distance(images, data())
        row = {**case, "nfe": sampler.nfe, "seconds": round(seconds, 1), "frechet_to_data": distance, **report}
        result["rows"].append(row)
        save(result, out)
        print(*case.values(), f"Frechet {distance:.2f}, tint {report['tint_matches']:.1%}, {seconds:.0f} s", flush=True)
    return result


def main() -> None:
    """Run the chosen study."""
    whole = parser(__doc__)
    studies = whole.add_subparsers(dest="study", required=True)
    exact = studies.add_parser("mixture", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    exact.add_argument("--runs", type=int, default=12, help="independent runs of every solver")
    exact.add_argument("--fields", type=int, default=64, help=f"samples of {FIELD}^2 particles in a run")
    exact.add_argument("--particles", type=int, default=20_000, help="particles of the errors to the ODE")
    exact.add_argument("--out", type=Path, default=RESULTS / "cld-mixture.json")
    learned = studies.add_parser("digits", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    learned.add_argument("model", nargs="?", default="digits-cld", help="an embedded model's name, or a saved folder")
    learned.add_argument("--samples", type=int, default=2000)
    learned.add_argument("--batch-size", type=int, default=100)
    learned.add_argument("--out", type=Path, default=RESULTS / "cld-digits.json")
    chosen = whole.parse_args()
    if chosen.study == "digits":
        digits(chosen.model, cases(), chosen.samples, chosen.batch_size, chosen.out, Recogniser())
        return
    result: dict[str, Any] = {"mixture": {"weights": WEIGHTS, "means": MEANS, "std": STD}}
    result |= {"orders": orders(), "ode": ode_errors(chosen.particles)}

    def keep(part: dict[str, Any]) -> None:
        save({**result, "distance": part}, chosen.out)

    distances(STEPS, chosen.runs, chosen.fields, GRIDS, keep)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Solvers on CLD: python -m benchmarks.studies.cld mixture | digits [MODEL]

mixture  with the exact score of the one-dimensional mixture .3 N(-.8) + .5 N(-.1) + .2 N(.6) with std .05: the distance
         of samples to the mixture, the error of deterministic solvers to the solution of their ODE, and the orders of
         convergence on Gaussian data. Writes cld-mixture.json, which `benchmarks.studies.pictures` plots.
digits   with the same seeds for each solver, grid, order and number of evaluations: the Frechet distance to the data in
         the features of digits-features, and the shares of recognised digits and of matching tints. Each row is written
         to cld-digits.json when it is measured; a second call continues after the last one.
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
from torch import Tensor, nn

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from benchmarks.studies.embedded import data, real_digits
from scoresde_fast.bench.measures import MEANS, STD, WEIGHTS, exact_draws, wasserstein
from scoresde_fast.evaluation import Recogniser, frechet_distance
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import PairRow, SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import marginal, propagate

Array = npt.NDArray[np.float64]
Case = dict[str, Any]

SDE = CLDSDE()

STEPS = (20, 30, 50, 75, 100, 150, 200, 300, 500)
FIELD = 64
"""A sample contains FIELD^2 independent particles, one a pixel."""
BATCH = 8
GRIDS = ("quadratic", "uniform")

EVALUATIONS = (10, 20, 50, 100)
GAUSSIAN = (0.3, 0.5)
ORDER_SIZES = (200, 400, 800)

STOCHASTIC_STEPS = (50, 100)
GDDIM_STEPS = (20, 50, 10)
GDDIM_GRIDS = (("quadratic", None), ("sqrt", 0.02))
"""Grids and the times at which they end; None is the model's eps. An error in the velocity's score grows like 1 / t in
the position, so it may be better to end earlier."""
NOISY_GDDIM: dict[str, Any] = {"grid": "logsnr", "eps": 0.005, "eta": 1.0}
"""Options that suit gDDIM with noise: steps evenly spaced in the logarithm of the signal-to-noise ratio."""
KEYS = ("solver", "grid", "order", "steps", "eps", "eta")


class MixtureVelocityScore(nn.Module):
    """The exact score of the velocity in each pixel: (B, 2, H, W) and times (B,), all equal -> (B, 1, H, W).

    The components have the same covariance P^-1 and the means Q m_k, so the score is (P (Q E[m | u] - u))_v.
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
        precision_vx, precision_vv, gain_x, gain_v, norm = self._coefficients(float(t[0]))
        x, v = u.unbind(1)
        means, log_weights = self.means.to(u.dtype), self.log_weights.to(u.dtype)
        posterior = (means * (gain_x * x + gain_v * v) + (log_weights - norm / 2 * means**2)).softmax(0)
        return (gain_v * (posterior * means).sum(0) - precision_vx * x - precision_vv * v).unsqueeze(1)


def model(field: int = FIELD) -> ScoreFunction:
    """Return the exact score model for samples of field^2 independent particles."""
    return ScoreFunction(MixtureVelocityScore(), ExactScore(SDE), (1, field, field), None)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of runs, its standard error, and the runs."""
    return {"mean": float(np.mean(values)), "standard_error": _error(values), "runs": list(values)}


def distances(
    steps: Sequence[int], runs: int, fields: int, grids: Sequence[str], on_row: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Return the 2-Wasserstein distances to the data for SSCS and Euler-Maruyama, which start at the same states.

    Each of the ``runs`` runs has fields * FIELD^2 particles. ``pooled`` is the distance of the particles of all runs
    together; the distances of single runs give its statistical error. ``on_row`` gets the result so far after each row.
    """
    count = fields * FIELD**2

    def describe(draws: list[Array]) -> dict[str, Any]:
        return {"pooled": wasserstein(np.concatenate(draws)), **spread([wasserstein(values) for values in draws])}

    floor = describe([exact_draws(count, seed) for seed in range(runs)])
    floor["pooled"] = float(np.mean([wasserstein(exact_draws(runs * count, seed)) for seed in range(runs)]))
    rows: list[dict[str, Any]] = []
    result = {"particles_a_run": count, "runs": runs, "denoise": True, "floor": floor, "rows": rows}
    for grid, n in product(grids, steps):
        begin = time.perf_counter()
        samples = {
            solver: [
                sf.sample(model(), range(fields), solver=solver, steps=n, grid=grid, run_seed=run, batch_size=BATCH)
                .flatten()
                .double()
                .numpy()
                for run in range(runs)
            ]
            for solver in ("sscs", "em")
        }
        row: dict[str, Any] = {"grid": grid, "steps": n, **{name: describe(draws) for name, draws in samples.items()}}
        difference = np.subtract(row["em"]["runs"], row["sscs"]["runs"]).tolist()
        row["difference"] = float(np.mean(difference))
        row["difference_in_standard_errors"] = row["difference"] / _error(difference)
        rows.append(row)
        on_row(result)
        print(
            f"{grid:9} n={n:3}  SSCS {row['sscs']['pooled']:.4f}  EM {row['em']['pooled']:.4f}  difference "
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
    """Integrate the probability flow from the states ``start`` (N, 2) at T to eps, with tolerances near 1e-9."""

    def slope(t: float, flat: Array) -> Array:
        u = flat.reshape(-1, 2)
        drift = u @ SDE.drift(t).T
        drift[:, 1] -= 0.5 * float(SDE.diffusion(t)) ** 2 * velocity_score(u, t)
        return drift.ravel()

    solution = solve_ivp(slope, (SDE.T, eps), start.ravel(), method="DOP853", rtol=1e-8, atol=1e-9)
    end: Array = solution.y[:, -1].reshape(-1, 2)
    return end


def run_in_float64(options: SolverOptions, u: Array) -> Array:
    """Run the solver's table in float64 from the states (N, 2) at T."""
    derived: list[Array] = []
    for row in build_table(SDE, options).rows:
        assert isinstance(row, PairRow) and row.derive is not None
        matrix, on_score = row.derive
        derived = [u @ matrix.T + np.outer(velocity_score(u, row.t), on_score), *derived[:3]]
        u = u @ row.state.T + sum(d @ m.T for d, m in zip(derived, row.outputs, strict=False))
    return u


def ode_errors(particles: int, evaluations: Sequence[int] = EVALUATIONS) -> dict[str, Any]:
    """Return the RMS errors of x at eps against the converged flow, from the same states at T."""
    start: Array = np.random.default_rng(0).normal(size=(particles, 2)) * SDE.prior_stds
    exact = converged(start, SDE.sampling_eps)
    rows = []
    for solver, order in (("em", None), *(("gddim", order) for order in (1, 2, 3, 4))):
        for nfe in evaluations:
            options = SolverOptions(solver, nfe, grid="sqrt", probability_flow=True, denoise=False, order=order)
            error = (run_in_float64(options, start) - exact)[:, 0]
            rows.append({"solver": solver, "order": order, "nfe": nfe, "rms": float(np.sqrt((error**2).mean()))})
            print(f"{solver} order {order}, {nfe} evaluations: {rows[-1]['rms']:.4f}", flush=True)
    return {"particles": particles, "grid": "sqrt", "eps": SDE.sampling_eps, "dtype": "float64", "rows": rows}


def orders(sizes: Sequence[int] = ORDER_SIZES) -> list[dict[str, Any]]:
    """Return errors of mean and covariance at eps on Gaussian data, and the orders of convergence from their slopes."""
    rows = []
    solvers = [("em", False, None), ("em", True, None), ("sscs", False, None)]
    for solver, flow, order in (*solvers, *(("gddim", True, order) for order in (1, 2, 3, 4))):
        errors = []
        for steps in sizes:
            options = SolverOptions(solver, steps, grid="quadratic", probability_flow=flow, order=order, denoise=False)
            actual = propagate(build_table(SDE, options), SDE, GAUSSIAN, marginal(SDE, SDE.T, *GAUSSIAN))
            exact = marginal(SDE, SDE.sampling_eps, *GAUSSIAN)
            parts = (np.abs(actual.mean - exact.mean).max(), np.abs(actual.covariance - exact.covariance).max())
            errors.append(float(sum(parts)))
        slope = -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
        by_size = {str(size): error for size, error in zip(sizes, errors, strict=True)}
        rows.append({"solver": solver, "flow": flow, "claimed": order or 1, "measured": slope, "errors": by_size})
    return rows


def cases() -> list[Case]:
    """Return the cases for the digits, the most important ones first."""

    def case(solver: str, steps: int, **options: Any) -> Case:
        return {**dict.fromkeys(KEYS), "solver": solver, "steps": steps, **options}

    stochastic, longer_stochastic = (
        [case(solver, steps, grid=grid) for grid in GRIDS for solver in ("sscs", "em")] for steps in STOCHASTIC_STEPS
    )
    flows = [
        case("gddim", steps, grid=grid, order=order, eps=eps)
        for steps in GDDIM_STEPS
        for grid, eps in GDDIM_GRIDS
        for order in (1, 2, 3, 4)
    ]
    noisy_gddim = [case("gddim", steps, order=order, **NOISY_GDDIM) for steps in GDDIM_STEPS for order in (2, 3)]
    return [*stochastic, *noisy_gddim, *flows, *longer_stochastic]


def digits(
    name: str, chosen: Iterable[Case], samples: int, batch_size: int, out: Path, recogniser: Recogniser
) -> dict[str, Any]:
    """Measure the cases that ``out`` does not contain, and return its whole content.

    Raises:
        ValueError: ``out`` has a different model, weights, or number of samples.
    """
    model = sf.load(name)
    weights = sf.Sampler(model).describe()["model"]["weights_sha256"]
    identity = {"model": name, "weights_sha256": weights, "samples": samples}
    result = json.loads(out.read_text()) if out.exists() else {**identity, **real_digits(recogniser), "rows": []}
    for key, value in identity.items():
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
    arguments = parser(__doc__)
    studies = arguments.add_subparsers(dest="study", required=True)
    of_mixture = studies.add_parser("mixture", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    of_mixture.add_argument("--runs", type=int, default=12, help="independent runs of each solver")
    of_mixture.add_argument("--fields", type=int, default=64, help=f"samples of {FIELD}^2 particles in a run")
    of_mixture.add_argument("--particles", type=int, default=20_000, help="particles for the errors to the ODE")
    of_mixture.add_argument("--out", type=Path, default=RESULTS / "cld-mixture.json")
    of_digits = studies.add_parser("digits", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    of_digits.add_argument("model", nargs="?", default="digits-cld", help="an embedded model, or a model's folder")
    of_digits.add_argument("--samples", type=int, default=2000)
    of_digits.add_argument("--batch-size", type=int, default=100)
    of_digits.add_argument("--out", type=Path, default=RESULTS / "cld-digits.json")
    chosen = arguments.parse_args()
    if chosen.study == "digits":
        digits(chosen.model, cases(), chosen.samples, chosen.batch_size, chosen.out, Recogniser())
        return
    result: dict[str, Any] = {"mixture": {"weights": WEIGHTS, "means": MEANS, "std": STD}}
    result |= {"orders": orders(), "ode": ode_errors(chosen.particles)}

    def write(part: dict[str, Any]) -> None:
        save({**result, "distance": part}, chosen.out)

    distances(STEPS, chosen.runs, chosen.fields, GRIDS, write)


if __name__ == "__main__":
    main()

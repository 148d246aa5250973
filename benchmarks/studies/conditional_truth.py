# SPDX-License-Identifier: Apache-2.0
"""Conditional samples against exact posteriors: python -m benchmarks.studies.conditional_truth samples | bias

samples  the errors of 20 000 samples of each method: projection, pseudo-inverse guidance, both, diffusion posterior
         sampling. One pixel of four, the gray, or averages over 2x2 pixels are given. Every SDE is used with the exact
         score of correlated Gaussian data and of a mixture. Measurements are exact for methods with projection; else
         their noise has std 0.1. Writes conditional-truth.json line by line, and skips lines that it contains.
bias     the exact bias of projection on the Gaussian data, by propagating mean and covariance through the run: the RMS
         error of the mean over measurements, in posterior standard deviations, and the relative Frobenius error of the
         covariance. Writes conditional-bias.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from benchmarks.studies.posteriors import (
    CorrelatedGaussian,
    Moments,
    mixture_posterior,
    posterior_moments,
    projected_moments,
)
from scoresde_fast.conditions.operators import LinearOperator
from scoresde_fast.loop.condition import Conditions
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SolverOptions
from scoresde_fast.tasks import ASSUMED_NOISE

SHAPE, COUNT, NOISE = (3, 2, 2), 20_000, 0.1
SDES: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}
ONE_OF_FOUR = torch.tensor([[1, 0], [0, 0]])
TASKS: dict[str, tuple[LinearOperator, npt.NDArray[np.float64]]] = {
    "inpainting": (sf.Mask(ONE_OF_FOUR), np.eye(12)[[0, 4, 8]]),
    "gray": (sf.Gray(), np.tile(np.eye(4), (1, 3)) / 3),
    "2x": (sf.SuperResolution(2), np.kron(np.eye(3), np.full((1, 4), 0.25))),
}
MIXTURE = ([0.5, 0.3, 0.2], (0.2, 0.5, 0.8), [0.15, 0.1, 0.2])
STEPS = {"projection": 1000, "pigdm": 300, "both": 300, "dps": 1000}
METHODS = tuple(STEPS)
EXACT = ("projection", "both")
"""Methods with exact measurements and a corrector; the guidance of "both" assumes `ASSUMED_NOISE`."""
DPS_SCALE = 0.02  # the mean distance of samples to the measurement is then about the size of its noise

PREDICTORS = {"ve": "reverse_diffusion", "vp": "reverse_diffusion", "subvp": "euler_maruyama", "cld": "sscs"}
GRIDS = {"ve": ("uniform",), "vp": ("uniform", "quadratic"), "subvp": ("uniform", "quadratic"), "cld": ("quadratic",)}
RUNS = ((60, 12), (1000, 2))
"""Runs whose bias is computed: steps, and corrector steps before each step."""
SNR = 0.4


def mixture(sde: SDE) -> sf.GaussianMixture:
    """Return a mixture of three isotropic components, each with a different mean for every pixel."""
    weights, centres, stds = MIXTURE
    slope = torch.linspace(-0.1, 0.1, 12).view(SHAPE)
    means = torch.stack([centre + slope * (-1) ** k for k, centre in enumerate(centres)])
    return sf.GaussianMixture(sde, weights, means, stds, is_image=False)


def typical_image(data: str, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random image (12,) that is typical of the data."""
    if data == "gaussian":
        return generator.normal(0.5, 0.3, 12)
    _, centres, stds = MIXTURE
    return generator.normal(centres[0], stds[0], 12)


DATA_STD = {"gaussian": 0.5, "mixture": 0.3}
DATA: dict[str, Callable[[SDE], CorrelatedGaussian | sf.GaussianMixture]] = {
    "gaussian": lambda sde: CorrelatedGaussian(sde, SHAPE),
    "mixture": mixture,
}


def solver_of(name: str, data: str, task: str, method: str) -> dict[str, Any]:
    """Return the solver options: predictor and corrector for methods with projection, else a predictor alone.

    Projection of one pixel of four on the mixture needs many corrector steps, which move samples between components:
    the pixel determines the component only when the noise is as small as the components' width.
    """
    sde = SDES[name]
    options: dict[str, Any] = {"solver": PREDICTORS[name], "steps": STEPS[method]}
    if method in EXACT:
        options |= {"corrector": "ald", "corrector_steps": 2, "snr": SNR}
        if isinstance(sde, CLDSDE):
            options["grid"] = "quadratic"
    if (data, task, method) == ("mixture", "inpainting", "projection"):
        options |= {"corrector_steps": 20 if isinstance(sde, CLDSDE) else 16, "grid": "logsnr"}
        # Stop early: at smaller times samples no longer change, and many steps would be wasted.
        options |= {SubVPSDE: {"eps": 0.01}, CLDSDE: {"eps": 0.005}}.get(type(sde), {})
    return options


def errors(samples: torch.Tensor, truth: Moments) -> dict[str, float]:
    """Return the errors of mean and covariance, relative to ``truth``, and the ratio of the total variances."""
    flat = samples.flatten(1).double().numpy()
    covariance = np.cov(flat.T)
    return {
        "mean": float(np.linalg.norm(flat.mean(0) - truth.mean) / np.sqrt(np.trace(truth.covariance))),
        "covariance": float(np.linalg.norm(covariance - truth.covariance) / np.linalg.norm(truth.covariance)),
        "variance_ratio": float(np.trace(covariance) / np.trace(truth.covariance)),
    }


def measure(data: str, name: str, task: str, method: str, count: int) -> dict[str, Any]:
    """Measure one line of the table."""
    model, (operator, matrix) = DATA[data](SDES[name]), TASKS[task]
    generator = np.random.default_rng(1)
    image = torch.from_numpy(typical_image(data, generator)).float().view(1, *SHAPE)
    exact = operator.apply(image)
    noise = 0.0 if method in EXACT else NOISE
    measured = exact + noise * torch.from_numpy(generator.normal(size=exact.shape)).float()
    mask, values = None, measured
    if task == "inpainting":
        mask, measured, values = ONE_OF_FOUR, measured * ONE_OF_FOUR, measured[..., 0, 0]
    posterior = model.posterior if isinstance(model, CorrelatedGaussian) else partial(mixture_posterior, model)
    std = DATA_STD[data]
    conditions: dict[str, Callable[[], Conditions]] = {
        "projection": lambda: sf.Projection(measured[0], mask),
        "both": lambda: (
            sf.Projection(measured[0], mask),
            sf.PiGDM(operator, measured, noise=ASSUMED_NOISE, data_std=std),
        ),
        "pigdm": lambda: sf.PiGDM(operator, measured, noise=NOISE, data_std=std),
        "dps": lambda: sf.DPS(operator, measured, scale=DPS_SCALE),
    }
    begin = time.perf_counter()
    options = solver_of(name, data, task, method)
    samples = sf.sample(model, range(count), condition=conditions[method](), batch_size=5000, **options)
    truth = posterior(matrix, values.flatten().double().numpy(), noise)
    return {**errors(samples, truth), "seconds": time.perf_counter() - begin, "options": options}


def sample_lines(out: Path, count: int) -> None:
    """Measure the lines that the file does not contain."""
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"lines": {}}
    result |= {"count": count, "steps": STEPS, "noise": NOISE, "dps_scale": DPS_SCALE}
    for data, method, task, sde in product(DATA, METHODS, TASKS, SDES):
        name = f"{data}/{method}/{task}/{sde}"
        if name not in result["lines"]:
            result["lines"][name] = line = measure(data, sde, task, method, count)
            print(name, {key: round(value, 4) for key, value in line.items() if key != "options"}, flush=True)
            save(result, out)


def bias_lines(out: Path) -> None:
    """Compute the bias of projection for each task, run, SDE and grid, and write the lines."""
    lines: list[dict[str, Any]] = []
    for (task, (_, operator)), (steps, corrections), (sde, grids) in product(TASKS.items(), RUNS, GRIDS.items()):
        for grid in grids:
            model = CorrelatedGaussian(SDES[sde], SHAPE)
            options = SolverOptions(PREDICTORS[sde], steps, "ald", corrector_steps=corrections, snr=SNR, grid=grid)
            run, posterior = projected_moments(model, options, operator), posterior_moments(model, operator)
            mean, covariance = run.bias(posterior, operator, model.data)
            line = {"known": task, "sde": sde, "steps": steps, "corrector_steps": corrections, "grid": grid}
            lines.append({**line, "mean": mean, "covariance": covariance})
            print(lines[-1], flush=True)
    save({"snr": SNR, "lines": lines}, out)


def main() -> None:
    """Run the chosen study."""
    arguments = parser(__doc__)
    arguments.add_argument("study", choices=["samples", "bias"])
    arguments.add_argument("--out", type=Path, help="output file (default: the file in benchmarks/results)")
    arguments.add_argument("--count", type=int, default=COUNT, help=f"samples per line (default: {COUNT})")
    chosen = arguments.parse_args()
    if chosen.study == "samples":
        sample_lines(chosen.out or RESULTS / "conditional-truth.json", chosen.count)
    else:
        bias_lines(chosen.out or RESULTS / "conditional-bias.json")


if __name__ == "__main__":
    main()

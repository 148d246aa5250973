# SPDX-License-Identifier: Apache-2.0
"""Conditional samples against their posterior in closed form: python benchmarks/conditional_truth.py

Of Gaussian data with correlated pixels and of a mixture, with the exact score: 20 000 samples each by projection, by
pseudo-inverse guidance, by both together and by diffusion posterior sampling, given one pixel of four, the gray, or
averages over 2x2 pixels, on every SDE.  Where there is projection what is measured is exact, else it has noise of
deviation 0.1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scoresde_fast as sf
from scoresde_fast.bench.machine import device_info
from scoresde_fast.bench.posteriors import CorrelatedGaussian, Moments, mixture_posterior
from scoresde_fast.bench.results import write_json
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.tasks import ASSUMED_NOISE

SHAPE, COUNT, NOISE = (3, 2, 2), 20_000, 0.1
SDES: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}
ONE_OF_FOUR = torch.tensor([[1, 0], [0, 0]])
TASKS = {
    "inpainting": (sf.Mask(ONE_OF_FOUR), np.eye(12)[[0, 4, 8]]),
    "gray": (sf.Gray(), np.tile(np.eye(4), (1, 3)) / 3),
    "2x": (sf.SuperResolution(2), np.kron(np.eye(3), np.full((1, 4), 0.25))),
}
MIXTURE = ([0.5, 0.3, 0.2], (0.2, 0.5, 0.8), [0.15, 0.1, 0.2])
STEPS = {"projection": 1000, "pigdm": 300, "both": 300, "dps": 1000}
METHODS = tuple(STEPS)
EXACT = ("projection", "both")
"""What is measured has no noise, and predictor-corrector samples; guidance takes the least noise for granted."""
DPS_SCALE = 0.02  # of steps this long the mean distance to what is measured comes out near that of its noise


def mixture(sde: SDE) -> sf.GaussianMixture:
    """Three isotropic components whose pixels differ."""
    weights, levels, stds = MIXTURE
    slope = torch.linspace(-0.1, 0.1, 12).view(SHAPE)
    means = torch.stack([level + slope * (-1) ** k for k, level in enumerate(levels)])
    return sf.GaussianMixture(sde, weights, means, stds, is_image=False)


def typical(data: str, drawn: np.random.Generator) -> np.ndarray:
    """An image (12,) like the data's: what is measured."""
    if data == "gaussian":
        return drawn.normal(0.5, 0.3, 12)
    level, std = MIXTURE[1][0], MIXTURE[2][0]
    return drawn.normal(level, std, 12)


DATA_STD = {"gaussian": 0.5, "mixture": 0.3}
DATA: dict[str, Callable[[SDE], ScoreFunction]] = {
    "gaussian": lambda sde: CorrelatedGaussian(sde, SHAPE),
    "mixture": mixture,
}


def solver_of(sde: SDE, data: str, task: str, method: str) -> dict[str, Any]:
    """Predictor-corrector for projection, a plain solver for guidance.

    Of the mixture one pixel of four does not tell the component before the noise is about as small as the components
    are wide: many corrector steps there let samples change over.
    """
    predictor = {CLDSDE: "sscs", SubVPSDE: "euler_maruyama"}.get(type(sde), "reverse_diffusion")
    options: dict[str, Any] = {"solver": predictor, "steps": STEPS[method]}
    if method in EXACT:
        options |= {"corrector": "ald", "corrector_steps": 2, "snr": 0.4}
        options |= {"grid": "quadratic"} if isinstance(sde, CLDSDE) else {}
    if (data, task, method) == ("mixture", "inpainting", "projection"):
        options |= {"corrector_steps": 20 if isinstance(sde, CLDSDE) else 16, "grid": "logsnr"}
        # The noise of these begins so small that many steps would be spent where nothing changes any more.
        options |= {SubVPSDE: {"eps": 0.01}, CLDSDE: {"eps": 0.005}}.get(type(sde), {})
    return options


def errors(samples: torch.Tensor, truth: Moments) -> dict[str, float]:
    """Distances of mean and covariance, relative to the deviation and the covariance that they should have."""
    flat = samples.flatten(1).double().numpy()
    covariance = np.cov(flat.T)
    return {
        "mean": float(np.linalg.norm(flat.mean(0) - truth.mean) / np.sqrt(np.trace(truth.covariance))),
        "covariance": float(np.linalg.norm(covariance - truth.covariance) / np.linalg.norm(truth.covariance)),
        "variance_ratio": float(np.trace(covariance) / np.trace(truth.covariance)),
    }


def measure(data: str, sde: SDE, task: str, method: str, count: int) -> dict[str, Any]:
    """One line of the table."""
    model, (operator, matrix) = DATA[data](sde), TASKS[task]
    drawn = np.random.default_rng(1)
    image = torch.from_numpy(typical(data, drawn)).float().view(1, *SHAPE)
    exact = operator.apply(image)
    noise = 0.0 if method in EXACT else NOISE
    measured = exact + noise * torch.from_numpy(drawn.normal(size=exact.shape)).float()
    if task == "inpainting":
        measured *= ONE_OF_FOUR
    values = measured[..., 0, 0].flatten() if task == "inpainting" else measured.flatten()
    posterior = model.posterior if isinstance(model, CorrelatedGaussian) else lambda *a: mixture_posterior(model, *a)
    known = ONE_OF_FOUR if task == "inpainting" else None
    std = DATA_STD[data]
    condition = {
        "projection": lambda: sf.Projection(measured[0], known),
        "both": lambda: (
            sf.Projection(measured[0], known),
            sf.PiGDM(operator, measured, noise=ASSUMED_NOISE, data_std=std),
        ),
        "pigdm": lambda: sf.PiGDM(operator, measured, noise=NOISE, data_std=std),
        "dps": lambda: sf.DPS(operator, measured, scale=DPS_SCALE),
    }[method]()
    begin = time.perf_counter()
    options = solver_of(sde, data, task, method)
    samples = sf.sample(model, range(count), condition=condition, batch_size=5000, **options)
    truth = posterior(matrix, values.double().numpy(), noise)
    return {**errors(samples, truth), "seconds": time.perf_counter() - begin, "options": options}


def main() -> None:
    """Measure what is not in the file yet, and write it after each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/conditional-truth.json"))
    parser.add_argument("--count", type=int, default=COUNT, help="samples a line")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    result: dict[str, Any] = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"lines": {}}
    result |= {"device": device_info(), "command": "python benchmarks/conditional_truth.py", "count": chosen.count}
    result |= {"steps": STEPS, "noise": NOISE, "dps_scale": DPS_SCALE}
    for name in (
        f"{data}/{method}/{task}/{sde}" for data in DATA for method in METHODS for task in TASKS for sde in SDES
    ):
        if name in result["lines"]:
            continue
        data, method, task, sde = name.split("/")
        line = measure(data, SDES[sde], task, method, chosen.count)
        print(name, {key: round(value, 4) for key, value in line.items() if key != "options"}, flush=True)
        result["lines"][name] = line
        write_json(result, chosen.json)


if __name__ == "__main__":
    main()

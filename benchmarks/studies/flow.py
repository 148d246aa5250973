# SPDX-License-Identifier: Apache-2.0
"""RK45 against SciPy, and the cost of the divergence: python -m benchmarks.studies.flow [--device cpu] [--batch 256]

Solves the probability flow to tolerance 1e-5 by RK45, and by ``solve_ivp`` over the whole batch, which has the same
error norm and calls the plain network in channels_last. Times an evaluation with and without Hutchinson's estimate of
the divergence. Takes medians of interleaved runs in one process. Writes benchmarks/results/flow-DEVICE.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.integrate import solve_ivp
from torch.autograd import forward_ad

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.timing import gpu_seconds, interleaved, race
from scoresde_fast.devices import Precision, arithmetic, keep_freed_memory
from scoresde_fast.flow.drift import Drift
from scoresde_fast.flow.options import Probes
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.ops.normal import rademacher

TOLERANCE, EPS = 1e-5, 1e-3


def scipy_loop(model: ScoreFunction, prior: torch.Tensor) -> Any:
    """Integrate as the official code does, but in channels_last, which is faster."""
    shape, device = prior.shape, prior.device

    @torch.no_grad()
    def slope(t: float, y: Any) -> Any:
        x = torch.from_numpy(y.reshape(shape)).to(device, torch.float32)
        x = x.contiguous(memory_format=torch.channels_last)
        return model.probability_flow(x, torch.full((len(x),), t, device=device)).cpu().double().numpy().ravel()

    start = prior.double().cpu().numpy().ravel()
    return solve_ivp(slope, (model.sde.T, EPS), start, rtol=TOLERANCE, atol=TOLERANCE, method="RK45")


def rk45_against_scipy(
    name: str, batch: int, rounds: int, device: torch.device, precision: Precision = "fp32"
) -> dict[str, Any]:
    """Compare SciPy with our RK45, whose error norm is over the whole batch, as in SciPy, or over each sample.

    Our network computes in ``precision``, SciPy's in float32, with TF32 unless ``precision`` is "fp32".
    """
    model = sf.load(name)
    options: dict[str, Any] = {"solver": "rk45", "denoise": False, "eps": EPS, "rtol": TOLERANCE, "atol": TOLERANCE}
    samplers = {
        norm: sf.Sampler(model, **options, error_norm=norm, batch_size=batch, device=device, precision=precision)
        for norm in ("batch", "sample")
    }
    plain = sf.load(name).to(device).eval()
    plain.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prior = plain.prior(Noise(0, torch.arange(batch, device=device)).normal(0, plain.state_shape))
    scipy_precision: Precision = "fp32" if precision == "fp32" else "tf32"
    if device.type == "cuda":  # warm-up: graph capture, and cuDNN's search for algorithms
        for sampler in samplers.values():
            sampler.sample(range(batch))
        with arithmetic(scipy_precision, device), torch.no_grad():
            x = prior.contiguous(memory_format=torch.channels_last)
            plain.probability_flow(x, torch.ones(batch, device=device))
    results: dict[str, Any] = {}

    def run_scipy() -> None:
        with arithmetic(scipy_precision, device):
            results["scipy"] = scipy_loop(plain, prior)

    def run_ours(norm: str) -> None:
        results[norm] = samplers[norm].sample(range(batch))

    runs: dict[str, Callable[[], None]] = {"scipy": run_scipy, **{norm: partial(run_ours, norm) for norm in samplers}}
    times = race(runs, device, seconds=math.inf, most=rounds)
    solution = results["scipy"]
    scipy_images = plain.to_images(torch.from_numpy(solution.y[:, -1].reshape(prior.shape))).float()
    sample_nfe = samplers["sample"].evaluations(range(batch))
    return {
        "model": name,
        "batch": batch,
        "rounds": rounds,
        "precision": precision,
        "seconds": {key: median(values) for key, values in times.items()},
        "nfe": {
            "scipy": int(solution.nfev),
            "batch": samplers["batch"].evaluations([0])[0],
            "sample_mean": sum(sample_nfe) / len(sample_nfe),
            "sample_most": max(sample_nfe),
        },
        "largest_difference_from_scipy": float((results["batch"].cpu() - scipy_images).abs().max()),
        "times_scipy": median(times["scipy"]) / median(times["batch"]),
        "times_scipy_by_own_error": median(times["scipy"]) / median(times["sample"]),
    }


def divergence_cost(
    model: sf.ScoreModel, batch: int, rounds: int, device: torch.device, precision: Precision = "fp32"
) -> dict[str, Any]:
    """Compare evaluations of the folded network with and without the divergence; on a GPU, they are captured."""
    model = model.to(device).eval()
    with torch.no_grad():
        drift = Drift(model, 1e-5, precision, device=device)
    ids = torch.arange(batch, device=device)
    u = model.prior(Noise(0, ids).normal(0, model.state_shape)).double()
    t = torch.full((batch,), 0.3, dtype=torch.float64, device=device)
    fields = rademacher(ids, 0, Probes().draw, model.image_shape)[None]

    def with_divergence() -> Any:
        with forward_ad.dual_level():
            return drift.slope_and_trace(u, t, fields, ids, Probes(), 0)

    calls: dict[str, Callable[[], Any]] = {"forward": lambda: drift.slope(u, t), "with_divergence": with_divergence}
    with torch.no_grad(), arithmetic(precision, device):
        if device.type == "cuda":
            medians = gpu_seconds(calls, rounds=rounds)
        else:
            medians = {name: quartiles.median for name, quartiles in interleaved(calls, rounds).items()}
    ratio = medians["with_divergence"] / medians["forward"]
    return {"batch": batch, "rounds": rounds, "precision": precision, "seconds": medians, "times_forward": ratio}


def main() -> None:
    """Run both comparisons and write the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--model", default="digits-vp")
    arguments.add_argument("--batch", type=int, default=256)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--out", type=Path)
    chosen = arguments.parse_args()
    device = torch.device(chosen.device)
    keep_freed_memory()
    cost = divergence_cost(sf.load(chosen.model), min(chosen.batch, 64), 15, device)
    result = {
        "divergence": {"model": chosen.model, **cost},
        "RK45": rk45_against_scipy(chosen.model, chosen.batch, chosen.rounds, device),
    }
    save(result, chosen.out or RESULTS / f"flow-{device.type}.json")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

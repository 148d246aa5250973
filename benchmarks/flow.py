# SPDX-License-Identifier: Apache-2.0
"""The flow against SciPy, and what a divergence costs: python benchmarks/flow.py [--device cpu] [--batch 256]

RK45 of the probability flow at 1e-5 against the loop that a SciPy user writes (``solve_ivp`` over the whole batch, the
plain network in evaluation mode, channels_last), by the same error norm and so by the same evaluations; and what one
evaluation with Hutchinson's estimate costs, against one evaluation alone.  Interleaved in one process, medians.  Writes
benchmarks/results/flow-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cld import RESULTS
from scipy.integrate import solve_ivp
from torch.autograd import forward_ad

import scoresde_fast as sf
from scoresde_fast.bench.machine import provenance
from scoresde_fast.bench.timing import gpu_seconds, interleaved, synchronise
from scoresde_fast.devices import Precision, arithmetic, keep_freed_memory
from scoresde_fast.files import replacing
from scoresde_fast.flow.drift import Drift
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.ops.rademacher import rademacher

TOLERANCE, EPS = 1e-5, 1e-3


def seconds(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - begin, result


def scipy_loop(model: ScoreFunction, prior: torch.Tensor) -> Any:
    """What the original does, on a faster memory format."""
    shape, device = prior.shape, prior.device

    @torch.no_grad()
    def slope(t: float, y: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(y.reshape(shape)).to(device, torch.float32)
        x = x.contiguous(memory_format=torch.channels_last)
        return model.probability_flow(x, torch.full((len(x),), t, device=device)).cpu().double().numpy().ravel()

    start = prior.double().cpu().numpy().ravel()
    return solve_ivp(slope, (model.sde.T, EPS), start, rtol=TOLERANCE, atol=TOLERANCE, method="RK45")


def rk45_against_scipy(
    name: str, batch: int, rounds: int, device: torch.device, precision: Precision = "fp32"
) -> dict[str, Any]:
    """RK45 against SciPy, by the batch's error as SciPy has it and by each sample's own.

    SciPy's network computes in float32, by TF32 unless ``precision`` is "fp32"; ours in ``precision``.
    """
    model = sf.load(name)
    options = {"solver": "rk45", "denoise": False, "eps": EPS, "rtol": TOLERANCE, "atol": TOLERANCE}
    samplers = {
        norm: sf.Sampler(model, **options, error_norm=norm, batch_size=batch, device=device, precision=precision)
        for norm in ("batch", "sample")
    }
    plain = sf.load(name).to(device).eval()
    plain.network.to(memory_format=torch.channels_last)
    prior = plain.prior(Noise(0, torch.arange(batch, device=device)).normal(0, plain.state_shape))
    flags: Precision = "fp32" if precision == "fp32" else "tf32"
    times: dict[str, list[float]] = {"scipy": [], "batch": [], "sample": []}
    if device.type == "cuda":  # a step is captured at a batch's first run, and cuDNN measures
        for sampler in samplers.values():
            sampler.sample(range(batch))
        with arithmetic(flags, device), torch.no_grad():
            x = prior.contiguous(memory_format=torch.channels_last)
            plain.probability_flow(x, torch.ones(batch, device=device))
    for _ in range(rounds):
        with arithmetic(flags, device):
            taken, wanted = seconds(device, lambda: scipy_loop(plain, prior))
        times["scipy"].append(taken)
        for norm, sampler in samplers.items():
            taken, images = seconds(device, lambda sampler=sampler: sampler.sample(range(batch)))
            times[norm].append(taken)
            if norm == "batch":
                reached = images.cpu()
    scipy_images = plain.to_images(torch.from_numpy(wanted.y[:, -1].reshape(prior.shape))).float()
    own = samplers["sample"].evaluations(range(batch))
    return {
        "model": name,
        "batch": batch,
        "rounds": rounds,
        "precision": precision,
        "seconds": {key: median(values) for key, values in times.items()},
        "nfe": {
            "scipy": int(wanted.nfev),
            "batch": samplers["batch"].evaluations([0])[0],
            "sample_mean": sum(own) / len(own),
            "sample_most": max(own),
        },
        "largest_difference_from_scipy": float((reached - scipy_images).abs().max()),
        "times_scipy": median(times["scipy"]) / median(times["batch"]),
        "times_scipy_by_own_error": median(times["scipy"]) / median(times["sample"]),
    }


def divergence_cost(
    model: sf.ScoreModel, batch: int, rounds: int, device: torch.device, precision: Precision = "fp32"
) -> dict[str, Any]:
    """One evaluation with the divergence against one without, of the same folded network; captured on a GPU."""
    model = model.to(device).eval()
    with torch.no_grad():
        drift = Drift(model, 1e-5, precision, device=device)
    ids = torch.arange(batch, device=device)
    u = model.prior(Noise(0, ids).normal(0, model.state_shape)).double()
    t = torch.full((batch,), 0.3, dtype=torch.float64, device=device)
    probes = rademacher(ids, 0, 2, model.image_shape)[None]

    def with_divergence() -> Any:
        with forward_ad.dual_level():
            return drift.slope_and_trace(u, t, probes, ids, 2, "rademacher", 0)

    calls: dict[str, Callable[[], Any]] = {"forward": lambda: drift.slope(u, t), "with_divergence": with_divergence}
    with torch.no_grad(), arithmetic(precision, device):
        if device.type == "cuda":
            medians = gpu_seconds(calls, rounds=rounds)
        else:
            medians = {name: quartiles[1] for name, quartiles in interleaved(calls, rounds).items()}
    ratio = medians["with_divergence"] / medians["forward"]
    return {"batch": batch, "rounds": rounds, "precision": precision, "seconds": medians, "times_forward": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="digits-vp")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    keep_freed_memory()
    result = {
        "divergence": {
            "model": arguments.model,
            **divergence_cost(sf.load(arguments.model), min(arguments.batch, 64), 15, device),
        },
        "RK45": rk45_against_scipy(arguments.model, arguments.batch, arguments.rounds, device),
        **provenance(),
    }
    with replacing(arguments.out or RESULTS / f"flow-{device.type}.json") as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

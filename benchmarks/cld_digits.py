# SPDX-License-Identifier: Apache-2.0
"""Every solver of CLD on digits: python benchmarks/cld_digits.py [MODEL] [--samples 2000]

Draws the same seeds by each solver, grid, order and number of evaluations; reports the Frechet distance to the data in
the features of digits-features, how many a support vector classifier recognises, and whether the tint is that of the
class.  Every row is written to benchmarks/results/cld-digits.json as it is made, and a second call goes on after the
last one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cld import RESULTS

import scoresde_fast as sf
from scoresde_fast.bench.machine import provenance
from scoresde_fast.data import digits
from scoresde_fast.evaluation import Recogniser, frechet_distance
from scoresde_fast.files import replacing

STOCHASTIC_STEPS = (50, 100)
GDDIM_STEPS = (20, 50, 10)
GDDIM_GRIDS = (("quadratic", None), ("sqrt", 0.02))
"""Grids with their last time, None: the model's.  A network's error in the velocity's score grows like 1 / t in the
position's, so that to stop earlier may be better."""
NOISY_GDDIM: dict[str, Any] = {"grid": "logsnr", "eps": 0.005, "eta": 1.0}
"""Where gDDIM's noisy form does well: even steps in the logarithm of the signal-to-noise ratio."""
KEYS = ("solver", "grid", "order", "steps", "eps", "eta")

Case = dict[str, Any]


def cases() -> list[Case]:
    """What is measured, the rows that are compared with one another first."""
    noisy = [
        {"solver": solver, "grid": grid, "order": None, "steps": steps, "eps": None, "eta": None}
        for steps in STOCHASTIC_STEPS
        for grid in ("quadratic", "uniform")
        for solver in ("sscs", "em")
    ]
    flows = [
        {"solver": "gddim", "grid": grid, "order": order, "steps": steps, "eps": eps, "eta": None}
        for steps in GDDIM_STEPS
        for grid, eps in GDDIM_GRIDS
        for order in (1, 2, 3, 4)
    ]
    reverse = [
        {"solver": "gddim", "order": order, "steps": steps, **NOISY_GDDIM} for steps in GDDIM_STEPS for order in (2, 3)
    ]
    first = [case for case in noisy if case["steps"] == STOCHASTIC_STEPS[0]]
    return [*first, *reverse, *flows, *[case for case in noisy if case not in first]]


def measure(
    name: str, chosen: Iterable[Case], samples: int, batch_size: int, out: Path, recogniser: Recogniser
) -> dict[str, Any]:
    """Add the cases that ``out`` does not hold yet; returns all of it.

    Raises:
        ValueError: ``out`` holds rows of another model, of other weights, or of another number of samples.
    """
    model = sf.load(name)
    data = digits("all")[0] / 255
    result = _begin(name, sf.Sampler(model).describe()["model"]["weights_sha256"], samples, data, out, recogniser)
    done = [{key: row[key] for key in KEYS} for row in result["rows"]]
    for case in chosen:
        if case in done:
            continue
        sampler = sf.Sampler(model, **case, batch_size=batch_size)
        begin = time.perf_counter()
        images = sampler.sample(range(samples))
        seconds = time.perf_counter() - begin
        report = asdict(recogniser.report(images))
        distance = frechet_distance(images, data)
        row = {**case, "nfe": sampler.nfe, "seconds": round(seconds, 1), "frechet_to_data": distance, **report}
        result["rows"].append(row)
        result.update(provenance())
        _write(result, out)
        print(*case.values(), f"Frechet {distance:.2f}, tint {report['tint_matches']:.1%}, {seconds:.0f} s", flush=True)
    return result


def _begin(
    name: str, weights: str, samples: int, data: torch.Tensor, out: Path, recogniser: Recogniser
) -> dict[str, Any]:
    """What is in ``out``, or the beginning of it: the same measures of real digits."""
    same = {"model": name, "weights_sha256": weights, "samples": samples}
    if out.exists():
        kept: dict[str, Any] = json.loads(out.read_text())
        for key, value in same.items():
            if kept[key] != value:
                raise ValueError(f"{out} has {key} {kept[key]!r}, not {value!r}: choose another --out or remove it")
        return kept
    accuracy, real = recogniser.held_out()
    halves = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))].chunk(2)
    return {
        **same,
        "real_held_out": {"accuracy": accuracy, **asdict(real)},
        "frechet_between_halves_of_data": frechet_distance(*halves),
        "rows": [],
    }


def _write(result: dict[str, Any], out: Path) -> None:
    with replacing(out) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="digits-cld", help="an embedded model's name, or a saved folder")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, default=RESULTS / "cld-digits.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    measure(arguments.model, cases(), arguments.samples, arguments.batch_size, arguments.out, Recogniser())


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Speed and quality with reused deep features: python -m benchmarks.studies.feature_caching [--only NAME ...]

Each embedded model on images samples the same seeds with 50 evaluations, whole or with cached features.  The quality is
the Frechet distance to the digits with its standard error, and that of its difference from whole evaluations, whose
samples have the same noise.  Speed is the median of interleaved runs of one batch.
The result is saved after each model; finished models are kept.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.measures import digits_measure, paired_standard_error, standard_error

MODELS = ("digits-ve", "digits-vp", "digits-subvp")
SETTINGS = [(1, 1), *((interval, branches) for branches in (1, 2) for interval in (2, 3, 5))]
"""Pairs of ``cache_interval`` and ``cache_branches``; the first is without reuse."""
SOLVERS: dict[str, dict[str, Any]] = {
    "unipc": {"solver": "unipc", "steps": 50},
    "dpmpp_2m_sde": {"solver": "dpmpp_2m_sde", "steps": 50, "grid": "karras"},
}
"""A solver without and one with noise."""
SAMPLES, BATCH, ROUNDS = 1000, 64, 5


def measure(name: str) -> list[dict[str, Any]]:
    """Return the quality and the speed of each solver with each setting."""
    model, score = sf.load(name), digits_measure().score
    rows = []
    for solver, options in SOLVERS.items():
        print(name, solver, flush=True)
        samplers = {
            setting: sf.Sampler(model, **options, cache_interval=setting[0], cache_branches=setting[1])
            for setting in SETTINGS
        }
        scores = {setting: score(sampler.sample(SAMPLES)) for setting, sampler in samplers.items()}
        seconds = interleaved(samplers)
        whole = scores[SETTINGS[0]]
        for (interval, branches), each in scores.items():
            rows.append(
                {
                    "solver": solver,
                    "interval": interval,
                    "branches": branches,
                    "images_per_second": BATCH / seconds[interval, branches],
                    "speedup": seconds[SETTINGS[0]] / seconds[interval, branches],
                    "frechet": each.quality,
                    "standard_error": standard_error(each.half_differences),
                    "paired_standard_error": paired_standard_error(each.half_differences, whole.half_differences),
                }
            )
    return rows


def interleaved(samplers: dict[tuple[int, int], sf.Sampler]) -> dict[tuple[int, int], float]:
    """Return the median seconds of each sampler for a batch."""
    times: dict[tuple[int, int], list[float]] = {setting: [] for setting in samplers}
    for _ in range(ROUNDS):
        for setting, sampler in samplers.items():
            start = time.perf_counter()
            sampler.sample(BATCH)
            times[setting].append(time.perf_counter() - start)
    return {setting: statistics.median(each) for setting, each in times.items()}


def main() -> None:
    """Measure the models that the result lacks."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    arguments.add_argument("--out", type=Path, default=RESULTS / "feature-caching.json")
    chosen = arguments.parse_args()
    result = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"models": {}}
    for name in chosen.only:
        if name not in result["models"]:
            with torch.inference_mode():
                result["models"][name] = measure(name)
            save({"samples": SAMPLES, "batch": BATCH, "models": result["models"]}, chosen.out)
            print(name, flush=True)


if __name__ == "__main__":
    main()

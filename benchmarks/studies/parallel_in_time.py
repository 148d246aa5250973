# SPDX-License-Identifier: Apache-2.0
"""Rounds of parallel-in-time sampling: python -m benchmarks.studies.parallel_in_time

Each solver samples the same seeds one step after another and in parallel.  Rounds follow one another; a device that
evaluates a window in the time of a single state would be faster by the ratio of the rounds.  The difference is the root
mean square over the pixels, in [0, 1].  The times are those of one image after another on this CPU.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.loop.parallel_runner import ParallelRunner

SOLVERS: dict[str, dict[str, Any]] = {
    "ddim": {"solver": "ddim", "steps": 50},
    "unipc": {"solver": "unipc", "steps": 20},
    "dpmpp_2m_sde": {"solver": "dpmpp_2m_sde", "steps": 50},
    "pc": {"solver": "pc", "steps": 150},
}
SETTINGS = ((16, 0.01), (64, 0.01), (64, 0.001))
"""Windows and tolerances."""
SEEDS = range(8)


def main() -> None:
    """Measure all solvers."""
    parser(__doc__).parse_args()
    rows = []
    for name in ("digits-ve", "digits-vp"):
        model = sf.load(name)
        for solver, options in SOLVERS.items():
            sequential = sf.Sampler(model, **options, batch_size=1)
            images, seconds = sequential.sample(SEEDS), duration(sequential)
            for window, tolerance in SETTINGS:
                sampler = sf.Sampler(model, **options, parallel=window, parallel_tolerance=tolerance, batch_size=1)
                difference = (sampler.sample(SEEDS) - images).numpy()
                assert isinstance(sampler.runner, ParallelRunner)
                rows.append(
                    {
                        "model": name,
                        "solver": solver,
                        "nfe": sequential.nfe,
                        "window": window,
                        "tolerance": tolerance,
                        "rounds": statistics.mean(sampler.runner.rounds(SEEDS)),
                        "evaluations": statistics.mean(sampler.evaluations(SEEDS)),
                        "error": float(np.sqrt(np.square(difference).mean())),
                        "seconds": duration(sampler),
                        "sequential_seconds": seconds,
                    }
                )
                print(rows[-1], flush=True)
    save({"rows": rows}, RESULTS / "parallel-in-time.json")


def duration(sampler: sf.Sampler) -> float:
    """Return the median seconds of one image."""
    times = []
    for seed in SEEDS:
        start = time.perf_counter()
        sampler.sample([seed])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The exact bias of projection on correlated Gaussian data: python benchmarks/conditional_bias.py

No sample is drawn: mean and covariance are carried through the run. Of the mean it is the root mean square over all
measurements, in posterior standard deviations; of the covariance, the Frobenius distance in units of its norm.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from conditional_truth import SDES, SHAPE, TASKS

from scoresde_fast.bench.machine import device_info
from scoresde_fast.bench.posteriors import CorrelatedGaussian, posterior_moments, projected_moments
from scoresde_fast.bench.results import write_json
from scoresde_fast.solvers import SolverOptions

PREDICTORS = {"ve": "reverse_diffusion", "vp": "reverse_diffusion", "subvp": "euler_maruyama", "cld": "sscs"}
GRIDS = {"ve": ("uniform",), "vp": ("uniform", "quadratic"), "subvp": ("uniform", "quadratic"), "cld": ("quadratic",)}
RUNS = ((60, 12), (1000, 2))
"""Steps, and corrector steps at each."""
SNR = 0.4


def main() -> None:
    """Write the file anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/conditional-bias.json"))
    chosen = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for task, (_, operator) in TASKS.items():
        for steps, corrections in RUNS:
            for sde, grids in GRIDS.items():
                for grid in grids:
                    model = CorrelatedGaussian(SDES[sde], SHAPE)
                    options = SolverOptions(
                        PREDICTORS[sde], steps, "ald", corrector_steps=corrections, snr=SNR, grid=grid
                    )
                    mean, covariance = projected_moments(model, options, operator).bias(
                        posterior_moments(model, operator), operator, model.data
                    )
                    line = {"known": task, "sde": sde, "steps": steps, "corrector_steps": corrections, "grid": grid}
                    lines.append({**line, "mean": mean, "covariance": covariance})
                    print(lines[-1], flush=True)
    command = "python benchmarks/conditional_bias.py"
    write_json({"command": command, "device": device_info(), "snr": SNR, "lines": lines}, chosen.json)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Statistics of a model's predictions for the solver `dpm_v3` (Zheng et al. 2023, equations 5 and 11).

Along the converged flow of some seeds, with y = x / scale, s = std / scale and the noise prediction e, they are

    c = mean of the diagonal of the derivative of s e with respect to y,
    r = <f, df/dl> / <f, f>,          f = s e - c y.

The paper's are vectors with an entry for each pixel, and it adds a constant to r f; these are means over the pixels,
because one coefficient of a step multiplies all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.solvers.weights import Weights
from scoresde_fast.tuning.flow import ConvergedFlow

SEEDS = range(64)
DIFFERENCE = 0.02
"""Half of the difference of states, relative to their noise, from which derivatives are computed."""


def empirical_statistics(model: ScoreFunction, **network: Any) -> Weights:
    """Return rows (half the log-SNR, c, r) for the option ``statistics`` of the solver `dpm_v3`.

    Args:
        model: the model.
        network: ``inputs``, ``guidance`` and ``device`` as of `Sampler`.

    Raises:
        ValueError: the model is on CLD, or as `Sampler`.
    """
    if not isinstance(model.sde, ScalarSDE):
        raise ValueError(
            f"the SDE is {model.sde.name!r}, on which solver 'dpm_v3' is not defined: it needs no statistics"
        )
    flow = ConvergedFlow(model, SEEDS, **network)
    assert isinstance(flow.sde, ScalarSDE)
    schedule = NoiseSchedule.at(flow.sde, flow.times)
    random = torch.Generator().manual_seed(0)
    linear, rest = np.zeros(len(flow.times)), []
    for index, x in enumerate(flow.states):
        scale, std = float(schedule.scale[index]), float(schedule.std[index])
        probe = (torch.randint(0, 2, x.shape, generator=random) * 2.0 - 1).to(x)
        low, middle, high = (-std * flow.score(x + k * DIFFERENCE * std * probe, index) for k in (-1, 0, 1))
        # The derivative of std e / scale with respect to x / scale, along the probe.
        linear[index] = float((probe * (high - low)).double().mean()) / (2 * DIFFERENCE)
        rest.append((std * middle - linear[index] * x).double() / scale)
    f, half_log_snr = torch.stack(rest), torch.from_numpy(schedule.half_log_snr).to(flow.states.device)
    (slope,) = torch.gradient(f, spacing=(half_log_snr,), dim=0)
    rate = (f * slope).flatten(1).sum(1) / f.square().flatten(1).sum(1)
    return tuple(zip(schedule.half_log_snr.tolist(), linear.tolist(), rate.tolist(), strict=True))

# SPDX-License-Identifier: Apache-2.0
"""The samplers of k-diffusion as peers.

Its package imports a dozen libraries for training and evaluation, so only its modules ``sampling`` and ``utils`` are
loaded; they need scipy, torchdiffeq, torchsde and torchvision.

Left out: ``sample_dpm_adaptive``, whose steps depend on the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.bench.peers.method import Peer, Predictions
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.torchvision_import import import_library

LIBRARY = "k-diffusion"
PACKAGE, ALONE = "k_diffusion", "_k_diffusion_samplers"
"""The package, and the name under which its modules are loaded without the package's own imports."""


@cache
def sampling() -> ModuleType:
    """Return the module with the samplers, without importing the package around it."""
    found = find_spec(PACKAGE)
    assert found is not None
    package = ModuleSpec(ALONE, None, is_package=True)
    package.submodule_search_locations = found.submodule_search_locations
    sys.modules[ALONE] = module_from_spec(package)
    return import_library(f"{ALONE}.sampling")


def _no_noise(start: Tensor, end: Tensor) -> float:
    return 0.0


def _sample(
    name: str,
    options: Mapping[str, Any],
    noise: str,
    predictions: Predictions,
    x: Tensor,
    schedule: NoiseSchedule,
    seed: int,
) -> Tensor:
    """Run ``sample_{name}``.

    ``noise`` is "none", "churn", "normal" for independent draws, or "brownian" for increments of one Brownian motion,
    the default of the samplers of SDEs.
    """
    library = sampling()
    s = schedule.noise_to_signal
    sigmas = torch.from_numpy(s).to(x.device, x.dtype)
    if noise == "churn":  # where more noise than that of the prior would be needed, none is added
        factor = 1 + min(options["s_churn"] / (len(s) - 1), np.sqrt(2) - 1)
        options = {**options, "s_tmax": float(s[0] / factor)}
    elif name not in DETERMINISTIC:
        if noise == "brownian":
            tree = library.BrownianTreeNoiseSampler(x, sigmas.min(), sigmas.max(), seed=seed)
            options = {**options, "noise_sampler": tree}
        elif noise == "none":
            options = {**options, "noise_sampler": _no_noise}

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return predictions.data(x, sigma[0])  # type: ignore[arg-type]

    times: tuple[Any, ...] = (sigmas,)
    if name == "dpm_fast":
        times = (float(s[-1]), float(s[0]), len(s) - 1)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # several samplers draw from the global generator
        torch.manual_seed(seed)
        return getattr(library, f"sample_{name}")(denoise, x, *times, disable=True, **options)


DETERMINISTIC = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
"""Samplers without a noise sampler."""
CHURN = {"s_churn": 4.0}


def peers() -> Iterator[Peer]:
    """Yield the samplers in all forms."""
    evaluations = {1: lambda steps: steps, 2: lambda steps: 2 * steps}
    for name, each in (("euler", 1), ("heun", 2), ("dpm_2", 2)):
        taken: dict[str, Any] = {"evaluations": evaluations[each]}
        yield Peer(LIBRARY, name, partial(_sample, name, {}, "none"), default=True, **taken)
        run = partial(_sample, name, CHURN, "churn")
        yield Peer(LIBRARY, name, run, "churn 4", deterministic=False, **taken)
    yield Peer(LIBRARY, "dpmpp_2m", partial(_sample, "dpmpp_2m", {}, "none"), default=True)
    for order in (1, 2, 3, 4):
        run = partial(_sample, "lms", {"order": order}, "none")
        yield Peer(LIBRARY, "lms", run, order=order, default=order == 4)
    yield Peer(LIBRARY, "dpm_fast", partial(_sample, "dpm_fast", {}, "none"), default=True, grid="logsnr")
    for name, each, noise, forms in (
        ("euler_ancestral", 1, "normal", ({},)),
        ("dpm_2_ancestral", 2, "normal", ({},)),
        ("dpmpp_2s_ancestral", 2, "normal", ({},)),
        ("dpmpp_sde", 2, "brownian", ({},)),
        ("dpmpp_2m_sde", 1, "brownian", ({}, {"solver_type": "heun"})),
        ("dpmpp_3m_sde", 1, "brownian", ({},)),
    ):
        for form, eta in product(forms, (1.0, 0.0)):
            if eta == 0 and name in ("euler_ancestral", "dpm_2_ancestral"):
                continue  # euler, dpm_2
            label = [*form.values(), *(["eta 0"] if eta == 0 else [])]
            yield Peer(
                LIBRARY,
                name,
                partial(_sample, name, {**form, "eta": eta}, noise if eta else "none"),
                ", ".join(label),
                deterministic=eta == 0,
                default=not label,
                evaluations=evaluations[each],
            )
    run = partial(_sample, "dpm_fast", {"eta": 1.0}, "normal")
    yield Peer(LIBRARY, "dpm_fast", run, "eta 1", deterministic=False, grid="logsnr")

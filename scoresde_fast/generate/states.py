# SPDX-License-Identifier: Apache-2.0
"""Samples as numbers: points, and CLD's positions with their velocities, in one .npz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.seeds import check_seeds
from scoresde_fast.loop.run_monitor import OnStep


class StateSource(Protocol):
    """What :func:`write_states` needs; ``scoresde_fast.Sampler`` is one."""

    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Positions (B, C, H, W), and velocities alike."""


def write_states(sampler: StateSource, seeds: Sequence[int], out: Path, *, return_velocity: bool) -> Path:
    """Write ``seeds`` (N,), ``position`` (N, C, H, W) float32 and, where asked for, ``velocity`` alike to ``out``.

    Images' positions are in [0, 1]; points, and velocities, are in the units of the SDE.

    Raises:
        ValueError: bad seeds, ``out`` is no new ``.npz``, or the model has no velocities.
        FloatingPointError: the network returned NaN.
    """
    seeds = check_seeds(seeds)
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: points and velocities are numbers, and go to one file that ends in .npz")
    if out.exists():
        raise ValueError(f"{out} is there already; choose another --out or move it")
    with tqdm(unit="evaluation", disable=None, leave=False) as bar:

        def step(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        states = sampler.sample(seeds, step, return_velocity=return_velocity)
    position, velocity = states if isinstance(states, tuple) else (states, None)
    make_folder(out.parent)
    with replacing(out) as file:
        if velocity is None:
            np.savez(file, seeds=np.array(seeds), position=position.cpu().numpy())
        else:
            np.savez(file, seeds=np.array(seeds), position=position.cpu().numpy(), velocity=velocity.cpu().numpy())
    return out

# SPDX-License-Identifier: Apache-2.0
"""Samples as numbers in one .npz: points, and positions of CLD with their velocities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.seeds import check_seeds
from scoresde_fast.loop.run_monitor import OnStep


class StateSampler(Protocol):
    """The interface that `write_states` needs; ``scoresde_fast.Sampler`` has it."""

    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return positions (B, C, H, W), and velocities alike."""


def write_states(sampler: StateSampler, seeds: Sequence[int], out: Path, *, return_velocity: bool) -> Path:
    """Write ``seeds`` (N,), ``position`` (N, C, H, W) float32 and, with ``return_velocity``, ``velocity`` alike.

    Positions of images are in [0, 1]; points and velocities are in the units of the SDE.

    Raises:
        ValueError: bad seeds, ``out`` is not a new ``.npz``, or the model has no velocities.
        FloatingPointError: the network returned NaN.
    """
    seeds = check_seeds(seeds)
    check_new_npz(out, "points and velocities")
    with tqdm(unit="evaluation", disable=None, leave=False) as bar:

        def step(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        states = sampler.sample(seeds, step, return_velocity=return_velocity)
    position, *velocity = states if isinstance(states, tuple) else (states,)
    named = {"position": position, **({"velocity": velocity[0]} if velocity else {})}
    write_npz(out, seeds=np.array(seeds), **{name: state.cpu().numpy() for name, state in named.items()})
    return out


def check_new_npz(out: Path, what: str) -> None:
    """Raise ValueError unless ``out`` ends in .npz and does not exist."""
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: {what} are numbers, and go to one file that ends in .npz")
    if out.exists():
        raise ValueError(f"{out} is there already; choose another --out or move it")


def write_npz(out: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write ``arrays`` by their names, and create the folder of ``out``."""
    make_folder(out.parent)
    with replacing(out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its keyword allow_pickle is no array

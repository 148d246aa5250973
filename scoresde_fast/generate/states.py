# SPDX-License-Identifier: Apache-2.0
"""`write_states`: writes points, or positions and velocities of CLD, to one .npz."""

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
        """Return positions (B, C, H, W); with ``return_velocity`` a pair of them and the velocities."""


def write_states(sampler: StateSampler, seeds: Sequence[int], out: Path, *, return_velocity: bool) -> Path:
    """Write ``seeds`` (N,), ``position`` and, on request, ``velocity`` (N, C, H, W) float32 to ``out``, and return it.

    Positions of images are in [0, 1]; points and velocities are in the units of the SDE.

    Raises:
        ValueError: invalid seeds, ``out`` is not a new ``.npz``, or the model has no velocities.
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
    arrays = {"position": position.cpu().numpy()}
    if velocity:
        arrays["velocity"] = velocity[0].cpu().numpy()
    write_npz(out, seeds=np.array(seeds), **arrays)
    return out


def check_new_npz(out: Path, content: str) -> None:
    """Raise ValueError unless ``out`` ends in .npz and does not exist; ``content`` is a plural noun for the message."""
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: {content} are written to one .npz file; give a name that ends in .npz")
    if out.exists():
        raise ValueError(f"{out} already exists; choose another --out or move it")


def write_npz(out: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write ``arrays`` under their names to the .npz ``out``, creating its folder."""
    make_folder(out.parent)
    with replacing(out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # allow_pickle is a keyword, but not an array

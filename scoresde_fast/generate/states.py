# SPDX-License-Identifier: Apache-2.0
"""Files (.npz) of points, CLD's states and latent codes, and images decoded from codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.data.array_files import load_arrays
from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.flow.codes import Decoder, decode, interpolate
from scoresde_fast.generate.manifest import data_sha256
from scoresde_fast.generate.pixels import compose, to_pixels
from scoresde_fast.generate.seeds import check_seeds
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise


class StateSampler(Protocol):
    """The interface that `write_states` needs; ``scoresde_fast.Sampler`` has it."""

    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return positions (B, C, H, W), or (positions, velocities) with ``return_velocity``."""


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
    position, velocity = states if isinstance(states, tuple) else (states, None)
    arrays = {"position": position.cpu().numpy()}
    if velocity is not None:
        arrays["velocity"] = velocity.cpu().numpy()
    _write_npz(out, seeds=np.array(seeds), **arrays)
    return out


def check_new_npz(out: Path, content: str) -> None:
    """Raise ValueError unless ``out`` ends in .npz and does not exist; ``content`` is a plural noun for the message."""
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: {content} are written to one .npz file; give a name that ends in .npz")
    if out.exists():
        raise ValueError(f"{out} already exists; choose another --out or move it")


def write_codes(out: Path, codes: Tensor, names: Sequence[str]) -> None:
    """Write ``codes`` (N, *state_shape) float32 and ``names`` (N,) to the .npz ``out``."""
    _write_npz(out, codes=codes.cpu().numpy(), names=np.array(names))


def read_codes(path: Path) -> Tensor:
    """Read the codes (N, C, H, W) float32 of a .npz that `write_codes` wrote.

    Raises:
        ValueError: the file contains no codes.
    """
    try:
        codes = load_arrays(path, ["codes"])["codes"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} contains no codes; use a .npz that scoresde-fast encode wrote") from error
    if codes.dtype.kind != "f" or codes.ndim != 4 or not len(codes):
        raise ValueError(f"codes of {path} are {codes.dtype} {codes.shape}; expected floats (N, C, H, W)")
    return torch.from_numpy(codes.astype(np.float32))


class CodeImages:
    """A sampler for `generate` and `write_states` that decodes codes; the seed of an image is its code's index.

    Args:
        model: any continuous-time `ScoreFunction`.
        codes: (N, *state_shape).
        temperature, options: as for `scoresde_fast.decode`.

    Raises:
        ValueError: as `scoresde_fast.decode`; a wrong shape only raises when a code is decoded.
    """

    nfe = None

    def __init__(self, model: ScoreFunction, codes: Tensor, *, temperature: float = 1.0, **options: Any) -> None:
        self._decoder = Decoder(model, temperature=temperature, **options)
        self._flow = self._decoder.flow
        self.codes, self.device = codes, self._flow.device
        self.batch_size, self.batch_dependent = self._flow.batch_size, self._flow.batch_dependent

    @property
    def implementation(self) -> str:
        """See `Sampler.implementation`."""
        return self._flow.implementation

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {
            "flow": self._flow.describe(),
            "codes_sha256": data_sha256(self.codes),
            "temperature": self._decoder.temperature,
        }

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (seeds, images (B, C, H, W) in [0, 1]) for each batch of the codes at indices ``seeds``."""
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            yield batch, self._decoder.decode(self.codes[batch], batch, on_step)

    def sample(self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool = False) -> Tensor:
        """Return the images (B, C, H, W) of the codes at indices ``seeds``."""
        assert not return_velocity  # decoding yields no velocities
        return torch.cat([images for _, images in self.stream(seeds, self.batch_size, on_step)])


def seed_codes(model: ScoreFunction, seeds: Sequence[int], run_seed: int = 0) -> Tensor:
    """Return codes (B, *state_shape): the standard normal noise from which the sampler starts for each seed."""
    return Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64, device="cpu")).normal(0, model.state_shape)


def interpolation_grid(model: ScoreFunction, seeds: Sequence[int], steps: int, **settings: Any) -> Pixels:
    """Return a grid (H, W, C) uint8 with a row of ``steps`` images for each pair of consecutive ``seeds``.

    Raises:
        ValueError: the model is of points, there are fewer than two seeds, or ``steps`` is below 2; also as
            `scoresde_fast.decode`.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    if not model.is_image:
        raise ValueError("an interpolation grid shows images, but this is a model of points: choose an image model")
    if len(seeds) < 2:
        raise ValueError(f"an interpolation needs at least two seeds, but {len(seeds)} is given: add another")
    ends = seed_codes(model, seeds, settings.get("run_seed", 0))
    codes = torch.cat([interpolate(a, b, steps) for a, b in pairwise(ends)])
    return compose(list(to_pixels(decode(model, codes, **settings), "round")), columns=steps)


def _write_npz(out: Path, **arrays: npt.NDArray[Any]) -> None:
    make_folder(out.parent)
    with replacing(out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # allow_pickle is a keyword, but not an array

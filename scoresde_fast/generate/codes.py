# SPDX-License-Identifier: Apache-2.0
"""Codes in files, and the images that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.png import Pixels
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.fingerprint import data_sha256
from scoresde_fast.flow.codes import Decoder, decode, interpolate
from scoresde_fast.generate.grid import compose
from scoresde_fast.generate.pixels import encode_png, to_pixels
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise


def write_codes(out: Path, codes: Tensor, names: Sequence[str]) -> None:
    """Write ``codes`` (N, *state_shape) float32 and ``names`` (N,) to the .npz ``out``."""
    make_folder(out.parent)
    with replacing(out) as file:
        np.savez(file, codes=codes.cpu().numpy(), names=np.array(names))


def require_new_npz(out: Path) -> None:
    """Raises ValueError unless ``out`` ends in .npz and is not there."""
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: codes are numbers, and go to one file that ends in .npz")
    if out.exists():
        raise ValueError(f"{out} is there already; choose another --out or move it")


def read_codes(path: Path) -> Tensor:
    """The codes (N, ...) float32 of a .npz that `write_codes` wrote.

    Raises:
        ValueError: it is another file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            codes = archive["codes"]
    except (BadZipFile, EOFError, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{path} has no codes; name a .npz that scoresde-fast encode wrote") from error
    if codes.dtype.kind != "f" or codes.ndim != 4 or not len(codes):
        raise ValueError(f"codes of {path} are {codes.dtype} {codes.shape}; they must be (N, C, H, W), of floats")
    return torch.from_numpy(codes.astype(np.float32))


class CodeImages:
    """The images of codes, named by their places: what `scoresde_fast.generate` and `write_states` write sets from.

    Args:
        model: any `ScoreFunction` of continuous time.
        codes: (N, *state_shape).
        temperature: see `scoresde_fast.decode`.
        options: those of `scoresde_fast.decode`.

    Raises:
        ValueError: as `scoresde_fast.decode`, but for the shape, which is looked at when a code is decoded.
    """

    nfe = None

    def __init__(self, model: ScoreFunction, codes: Tensor, *, temperature: float = 1.0, **options: Any) -> None:
        self._decoder = Decoder(model, temperature=temperature, **options)
        self._flow = self._decoder.flow
        self.codes, self.device = codes, self._flow.device
        self.batch_size, self.batch_dependent = self._flow.batch_size, self._flow.batch_dependent

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, as plain values."""
        return {
            "flow": self._flow.describe(),
            "codes_sha256": data_sha256(self.codes.cpu()),
            "temperature": self._decoder.temperature,
        }

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of (places, images (B, C, H, W) in [0, 1]) of the codes at ``seeds``."""
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            yield batch, self._decoder.decode(self.codes[batch], batch, on_step)

    def sample(self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool = False) -> Tensor:
        """The samples (B, C, H, W) of the codes at ``seeds``."""
        assert not return_velocity
        return torch.cat([images for _, images in self.stream(seeds, self.batch_size, on_step)])


def seed_codes(model: ScoreFunction, seeds: Sequence[int], run_seed: int = 0) -> Tensor:
    """Codes (B, *state_shape) that are the normals of the seeds' prior: those that the sampler begins with."""
    return Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64)).normal(0, model.state_shape)


def interpolation_grid(model: ScoreFunction, seeds: Sequence[int], steps: int, **settings: Any) -> Pixels:
    """A picture (H, W, C) uint8 with a row for each pair of neighbouring seeds, from one to the other in ``steps``.

    Raises:
        ValueError: the model is of points, there are less than two seeds, or ``steps`` is below 2; and the errors of
            `scoresde_fast.decode`.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    if not model.is_image:
        raise ValueError("this model is of points, which are no pictures: choose a model of images")
    if len(seeds) < 2:
        raise ValueError(f"an interpolation is between two seeds or more, and {len(seeds)} is given: name another")
    ends = seed_codes(model, seeds, settings.get("run_seed", 0))
    ways = torch.cat([interpolate(a, b, steps) for a, b in pairwise(ends)])
    return compose(list(to_pixels(decode(model, ways, **settings), "round")), columns=steps)


def write_png(out: Path, pixels: Pixels) -> None:
    """Write (H, W, C) uint8 as a PNG; its folder is made."""
    make_folder(out.parent)
    with replacing(out) as file:
        file.write(encode_png(pixels))

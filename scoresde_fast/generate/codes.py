# SPDX-License-Identifier: Apache-2.0
"""Latent codes in files, the images of codes, and interpolations between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.fingerprint import data_sha256
from scoresde_fast.flow.codes import Decoder, decode, interpolate
from scoresde_fast.generate.pixels import compose, to_pixels
from scoresde_fast.generate.states import write_npz
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise


def write_codes(out: Path, codes: Tensor, names: Sequence[str]) -> None:
    """Write ``codes`` (N, *state_shape) float32 and ``names`` (N,) to the .npz ``out``."""
    write_npz(out, codes=codes.cpu().numpy(), names=np.array(names))


def read_codes(path: Path) -> Tensor:
    """Read the codes (N, ...) float32 of a .npz that `write_codes` wrote.

    Raises:
        ValueError: the file has no codes.
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
    """A sampler of the images of codes, for `generate` and `write_states`: the seed of an image is its code's index.

    Args:
        model: any `ScoreFunction` of continuous time.
        codes: (N, *state_shape).
        temperature: see `scoresde_fast.decode`.
        options: as for `scoresde_fast.decode`.

    Raises:
        ValueError: as `scoresde_fast.decode`; a wrong shape is found when a code is decoded.
    """

    nfe = None

    def __init__(self, model: ScoreFunction, codes: Tensor, *, temperature: float = 1.0, **options: Any) -> None:
        self._decoder = Decoder(model, temperature=temperature, **options)
        self._flow = self._decoder.flow
        self.codes, self.device = codes, self._flow.device
        self.batch_size, self.batch_dependent = self._flow.batch_size, self._flow.batch_dependent

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {
            "flow": self._flow.describe(),
            "codes_sha256": data_sha256(self.codes.cpu()),
            "temperature": self._decoder.temperature,
        }

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (indices, images (B, C, H, W) in [0, 1]) of each batch of the codes at ``seeds``."""
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            yield batch, self._decoder.decode(self.codes[batch], batch, on_step)

    def sample(self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool = False) -> Tensor:
        """Return the samples (B, C, H, W) of the codes at ``seeds``."""
        assert not return_velocity
        return torch.cat([images for _, images in self.stream(seeds, self.batch_size, on_step)])


def seed_codes(model: ScoreFunction, seeds: Sequence[int], run_seed: int = 0) -> Tensor:
    """Return codes (B, *state_shape): the normals of the seeds' prior, from which the sampler starts."""
    return Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64)).normal(0, model.state_shape)


def interpolation_grid(model: ScoreFunction, seeds: Sequence[int], steps: int, **settings: Any) -> Pixels:
    """Return a picture (H, W, C) uint8 with a row of ``steps`` images for each pair of neighbouring seeds.

    Raises:
        ValueError: the model is of points, there are fewer than two seeds, or ``steps`` is below 2; and the errors of
            `scoresde_fast.decode`.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    if not model.is_image:
        raise ValueError("this model is of points, and a picture needs images: choose a model of images")
    if len(seeds) < 2:
        raise ValueError(f"an interpolation needs at least two seeds, and {len(seeds)} is given: name another")
    ends = seed_codes(model, seeds, settings.get("run_seed", 0))
    codes = torch.cat([interpolate(a, b, steps) for a, b in pairwise(ends)])
    return compose(list(to_pixels(decode(model, codes, **settings), "round")), columns=steps)

# SPDX-License-Identifier: Apache-2.0
"""The training loss of a model on a data set, independent of the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.data.sources import ImageSource
from scoresde_fast.model import ScoreModel
from scoresde_fast.training.losses import objective, unit_images


@dataclass(frozen=True)
class DataSetLoss:
    """The mean loss, its standard error (None for a single batch), and the numbers of images and draws per image."""

    mean: float
    standard_error: float | None
    images: int
    draws: int

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"loss {self.mean:.6g}{error} ({self.images} images, draws of time and noise per image: {self.draws})"


@torch.inference_mode()
def data_set_loss(
    model: ScoreModel,
    images: ImageSource,
    *,
    draws: int = 1,
    run_seed: int = 0,
    batch_size: int = 64,
    progress: bool | None = None,
) -> DataSetLoss:
    """Return the mean of the model's training objective, without flips and dropout.

    The standard error is estimated from the means of the batches.

    Args:
        draws: number of random times and noises for each image.
        run_seed: seed of the times and the noise, which also depend on the image's index in the source.
        batch_size: number of images in a batch.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: the images do not have the model's shape, or a number is too small.
    """
    for name, value, minimum in (("draws", draws, 1), ("batch size", batch_size, 1), ("run seed", run_seed, 0)):
        if value < minimum:
            raise ValueError(f"{name} is {value}; it must be at least {minimum}")
    if tuple(images.shape) != model.image_shape:
        raise ValueError(
            f"the images are {images.shape} (channels, height, width); this model's are {model.image_shape}"
        )
    model.eval()
    means, counts = [], []
    with tqdm(total=draws * images.count, unit="image", disable=None if progress is None else not progress) as bar:
        for draw in range(draws):
            start = 0
            for batch in images.batches(batch_size):
                indices = range(start, start + len(batch.images))
                start = indices.stop
                means.append(_batch_loss(model, batch.images, [index * draws + draw for index in indices], run_seed))
                counts.append(len(indices))
                bar.update(len(indices))
    return DataSetLoss(*_weighted(means, counts), images.count, draws)


def _batch_loss(model: ScoreModel, images: Tensor, streams: list[int], run_seed: int) -> float:
    """Return the mean loss of a batch; ``streams`` are the random streams of its images."""
    # numpy, because torch's CPU generator uses only 32 bits of a seed.
    generators = [np.random.default_rng([run_seed, stream]) for stream in streams]
    u = np.array([random.random() for random in generators])
    uniform, z, z_v0 = (
        torch.from_numpy(np.stack(draws))
        for draws in (
            [random.random(model.image_shape, np.float32) for random in generators],
            [random.standard_normal(model.state_shape, np.float32) for random in generators],
            [random.standard_normal(model.image_shape, np.float32) for random in generators],
        )
    )
    x0 = model.from_images(unit_images(images, uniform, model.config.data))
    device = next(model.parameters()).device
    return float(objective(model, x0.to(device), u, z.to(device), z_v0.to(device)))


def _weighted(means: list[float], counts: list[int]) -> tuple[float, float | None]:
    """Return the mean of batch means weighted by their counts, and its standard error; None for a single batch."""
    total = sum(counts)
    mean = sum(value * count for value, count in zip(means, counts, strict=True)) / total
    if len(means) < 2:
        return mean, None
    squares = sum((count * (value - mean)) ** 2 for value, count in zip(means, counts, strict=True))
    return mean, math.sqrt(squares * len(means) / (len(means) - 1)) / total

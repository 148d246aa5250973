# SPDX-License-Identifier: Apache-2.0
"""A model's training loss on a data set: every image, the same random numbers whatever the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.data.sources import ImageSource
from scoresde_fast.model import ScoreModel
from scoresde_fast.training.objective import objective, unit_images


@dataclass(frozen=True)
class DataSetLoss:
    """The mean over images and draws, its standard error (None of one batch), and how many of both there were."""

    mean: float
    standard_error: float | None
    images: int
    draws: int

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"loss {self.mean:.6g}{error} ({self.images} images, draws of time and noise each: {self.draws})"


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
    """The mean of the objective that the model's configuration trains on, without flips and dropout.

    The standard error is that of means over batches, which losses come as.

    Args:
        draws: times and noises an image.
        run_seed: of them; each image has its own, by its place in the source.
        batch_size: images at once.
        progress: show a bar; None shows it on a terminal.

    Raises:
        ValueError: the images have another shape than the model's, or a number is too small.
    """
    for name, value, least in (("draws", draws, 1), ("batch size", batch_size, 1), ("run seed", run_seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it is at least {least}")
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
                places = range(start, start := start + len(batch.images))
                means.append(_batch_loss(model, batch.images, [place * draws + draw for place in places], run_seed))
                counts.append(len(places))
                bar.update(len(places))
    return DataSetLoss(*_weighted(means, counts), images.count, draws)


def _batch_loss(model: ScoreModel, images: Tensor, numbers: list[int], run_seed: int) -> float:
    # Not torch's generator on a CPU, which looks at 32 bits of a seed.
    generators = [np.random.default_rng([run_seed, number]) for number in numbers]
    u = np.array([random.random() for random in generators])
    uniform, z, z_v0 = (
        torch.from_numpy(np.stack(drawn))
        for drawn in (
            [random.random(model.image_shape, np.float32) for random in generators],
            [random.standard_normal(model.state_shape, np.float32) for random in generators],
            [random.standard_normal(model.image_shape, np.float32) for random in generators],
        )
    )
    x0 = model.from_images(unit_images(images, uniform, model.config.data))
    device = next(model.parameters()).device
    return float(objective(model, x0.to(device), u, z.to(device), z_v0.to(device)))


def _weighted(means: list[float], counts: list[int]) -> tuple[float, float | None]:
    total = sum(counts)
    mean = sum(value * count for value, count in zip(means, counts, strict=True)) / total
    if len(means) < 2:
        return mean, None
    squares = sum((count * (value - mean)) ** 2 for value, count in zip(means, counts, strict=True))
    return mean, math.sqrt(squares * len(means) / (len(means) - 1)) / total

# SPDX-License-Identifier: Apache-2.0
"""Pictures of the comparison's page: first images of the data and of the best cases, and nearest training images."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import groupby

import numpy as np
from torch import Tensor

from scoresde_fast.bench.candidates import Candidate
from scoresde_fast.bench.results import Comparison, Strip
from scoresde_fast.bench.targets import Target, TrainingSet
from scoresde_fast.data.codecs import Pixels, encode_png
from scoresde_fast.evaluation.neighbours import nearest
from scoresde_fast.generate.pixels import compose, to_pixels, to_uint8

STRIP_IMAGES = 12
WITH_NEIGHBOURS = 8
"""Number of samples for which nearest training images are shown."""


def image_strips(result: Comparison, candidates: Iterable[Candidate], target: Target) -> list[Strip]:
    """Return the first images of the data, if there are any, and of the best case within each budget.

    With a training set the images of the last best case follow, above their nearest training images.
    """
    by_key = {candidate.case.key: candidate for candidate in candidates}
    strips = [] if target.images is None else [_strip("the data", target.images[:STRIP_IMAGES])]
    title, images = "", None
    for index, limits in groupby(result.ranking.by_nfe, key=lambda best: best.best):
        line, limit = result.lines[index], next(limits).limit
        if candidate := by_key.get(line.key):  # None if the case is of an earlier call with other solvers
            images = candidate.prepare().draw(range(min(STRIP_IMAGES, result.samples))).samples
            title = f"at most {limit} evaluations: {line}"
            strips.append(_strip(title, images))
    if target.training is not None and images is not None:
        strips.append(_neighbours(title, images[:WITH_NEIGHBOURS], target.training))
    return strips


def _strip(title: str, images: Tensor) -> Strip:
    """Join images (N, C, H, W) in [0, 1] side by side."""
    return _as_strip(title, np.concatenate(list(to_pixels(images, "floor")), axis=1))


def _neighbours(title: str, images: Tensor, training: TrainingSet) -> Strip:
    """Return images in a row, and below each its nearest training images, nearest first."""
    pixels = to_uint8(images, "floor").permute(0, 3, 1, 2).cpu().contiguous()
    features = training.extractor(pixels)[training.extractor.layer].cpu()
    found = nearest(features, training.features, training.images)
    rows = [pixels, *found.images.unbind(1)]
    grid = compose([image for row in rows for image in row.permute(0, 2, 3, 1).numpy()], columns=len(images))
    ratio = float(found.distances.min()) / found.typical
    text = (
        f"{title}; below each image its nearest in {training.name}. The smallest distance is {ratio:.2g} times that of "
        "neighbours in the training set; a much smaller one indicates a copy."
    )
    return _as_strip(text, grid)


def _as_strip(title: str, pixels: Pixels) -> Strip:
    return Strip(title, base64.b64encode(encode_png(pixels)).decode())

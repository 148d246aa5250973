# SPDX-License-Identifier: Apache-2.0
"""Evaluations of digits without bootstrap, and folders and samplers of given images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor

from scoresde_fast.data.codecs import encode_png
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Evaluation, Extractor, MetricSettings, evaluate
from scoresde_fast.sampler import Sampler


def evaluated(extractor: Extractor, **options: Any) -> Evaluation:
    usual: dict[str, Any] = {"settings": MetricSettings(resamples=0, kid_subsets=3), "progress": False}
    evaluation = evaluate(open_images("digits:train"), "digits:train", extractor, **(usual | options))
    assert evaluation is not None
    return evaluation


def values(evaluation: Evaluation) -> dict[str, float]:
    return {name: metric["value"] for name, metric in evaluation.result["metrics"].items()}


def fid(evaluation: Evaluation) -> float:
    return values(evaluation)["fid"]


def png_folder(folder: Path, images: Tensor) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        (folder / f"{index:06d}.png").write_bytes(encode_png(image.permute(1, 2, 0).numpy()))
    return folder


class Replay:
    """A sampler that returns images (N, C, H, W) uint8, with the seed as index."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def describe(self) -> dict[str, Any]:
        return {"solver": "replay"}

    def stream(self, seeds: Any, batch_size: int) -> Any:
        yield list(seeds), self.images[list(seeds)].float() / 255


def replayed(images: Tensor) -> Sampler:
    """Return a sampler of given images (N, C, H, W) uint8; it has the part of `Sampler` that an evaluation uses."""
    return cast(Sampler, Replay(images))

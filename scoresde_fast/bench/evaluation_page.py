# SPDX-License-Identifier: Apache-2.0
"""An evaluation as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde_fast.bench import pages
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.evaluation.neighbours import Neighbours
from scoresde_fast.evaluation.results import NAMES
from scoresde_fast.evaluation.run import Evaluation
from scoresde_fast.generate.pixels import compose


def write_html(evaluation: Evaluation, path: Path) -> None:
    """Write the page of an evaluation.

    Raises:
        MissingPackageError: matplotlib or Jinja2 is not there.
    """
    pages.write(render(evaluation), path)


def render(evaluation: Evaluation) -> str:
    """The page: metrics and what they depend on, images, neighbours in the training set, FID against the number."""
    pages.require_libraries()
    result = evaluation.result
    return pages.render(
        "evaluation.html",
        result=result,
        names=NAMES,
        grid=picture(evaluation.first),
        curve=_curve(result) if len(result["curve"]) > 1 else None,
        neighbours=evaluation.neighbours and _rows(evaluation.first, evaluation.neighbours),
        typical=evaluation.neighbours and evaluation.neighbours.typical,
        training_set=evaluation.training_set,
    )


def picture(images: Tensor, columns: int | None = None) -> str:
    """(N, C, H, W) uint8 -> a grid of them, PNG in base64; images of other than 1 or 3 channels by their first."""
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    pixels = list(images.permute(0, 2, 3, 1).numpy())
    return base64.b64encode(encode_png(compose(pixels, columns))).decode()


def _rows(samples: Tensor, neighbours: Neighbours) -> list[dict[str, Any]]:
    return [
        {
            "sample": picture(sample[None], 1),
            "nearest": [
                {"png": picture(image[None], 1), "distance": float(distance)}
                for image, distance in zip(images, distances, strict=True)
            ],
        }
        for sample, images, distances in zip(samples, neighbours.images, neighbours.distances, strict=False)
    ]


def _curve(result: dict[str, Any]) -> Any:
    """FID against the reciprocal of the number of images, in which its bias is a straight line at first order."""
    import matplotlib

    from scoresde_fast.bench import charts

    with matplotlib.rc_context(charts.STYLE):
        figure, axes = charts._figure(6.4, 3.4)
        counts, values = zip(*result["curve"], strict=True)
        axes.plot([1 / count for count in counts], values, "o-", color=charts.OURS, linewidth=1.8)
        axes.set_xticks([1 / count for count in counts], [f"1/{count}" for count in counts])
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.set_xlabel("1 / images")
        axes.set_ylabel("FID")
        axes.grid()
        return charts._svg(figure, "FID against the number of images")

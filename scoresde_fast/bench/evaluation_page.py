# SPDX-License-Identifier: Apache-2.0
"""An evaluation as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import re
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde_fast.bench.report import figures, require_libraries
from scoresde_fast.evaluation.neighbours import Neighbours
from scoresde_fast.evaluation.results import NAMES
from scoresde_fast.evaluation.run import Evaluation
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.grid import compose
from scoresde_fast.generate.pixels import encode_png


def write_html(evaluation: Evaluation, path: Path) -> None:
    """Write the page of an evaluation.

    Raises:
        ValueError: matplotlib or Jinja2 is not there.
    """
    page = render(evaluation)
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(page.encode())


def render(evaluation: Evaluation) -> str:
    """The page: metrics and what they depend on, images, neighbours in the training set, FID against the number."""
    require_libraries()
    from jinja2 import Environment

    result = evaluation.result
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figures"] = figures
    folder = resources.files(__package__)
    template = environment.from_string(folder.joinpath("evaluation.html").read_text("utf-8"))
    # All pages look alike.
    style = re.search(r"<style>(.*?)</style>", folder.joinpath("report.html").read_text("utf-8"), re.DOTALL)
    assert style is not None
    return template.render(
        result=result,
        names=NAMES,
        style=style[1],
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

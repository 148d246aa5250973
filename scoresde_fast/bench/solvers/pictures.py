# SPDX-License-Identifier: Apache-2.0
"""What the best lines' images look like: the first seeds side by side, as PNG in base64."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from scoresde_fast.bench.solvers.contender import Contender
from scoresde_fast.bench.solvers.results import CASE_KEYS, case_dict
from scoresde_fast.bench.solvers.verdict import describe
from scoresde_fast.data import digits
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.generate.pixels import to_pixels

SHOWN = 12


def pictures(result: dict[str, Any], contenders: Iterable[Contender]) -> list[dict[str, Any]]:
    """A strip of images of the data and of the best line of each budget: ``title`` and ``png``."""
    by_case = [(case_dict(contender.case), contender) for contender in contenders]
    strips = [{"title": "the data", "png": strip(digits("test")[0][:SHOWN] / 255)}]
    for found in result["verdict"]["by_nfe"]:
        line = result["lines"][found["best"]]
        wanted = {key: line[key] for key in CASE_KEYS}
        contender = next((contender for case, contender in by_case if case == wanted), None)
        if contender is not None:  # a kept line may be of a solver that this call leaves out
            drawn = contender.ready().draw(range(min(SHOWN, result["samples"])))
            title = f"at most {found['limit']} evaluations: {describe(line)}"
            strips.append({"title": title, "png": strip(drawn.samples)})
    return strips


def strip(images: Tensor) -> str:
    """(N, C, H, W) in [0, 1] -> one picture, N images wide."""
    return base64.b64encode(encode_png(np.concatenate(list(to_pixels(images, "floor")), axis=1))).decode()

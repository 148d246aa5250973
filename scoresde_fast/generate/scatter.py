# SPDX-License-Identifier: Apache-2.0
"""A picture of points in the plane."""

from __future__ import annotations

import io

from torch import Tensor

from scoresde_fast.errors import require_packages

INCHES, DPI = 5, 100


def scatter(points: Tensor) -> bytes:
    """Points (N, C, 1, 1) as a PNG of their first two coordinates.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_packages("a picture of points", "matplotlib")
    from matplotlib.figure import Figure

    x, y = points.flatten(1)[:, :2].cpu().numpy().T
    figure = Figure(figsize=(INCHES, INCHES), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x, y, s=1, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    png = io.BytesIO()
    figure.savefig(png, dpi=DPI)
    return png.getvalue()

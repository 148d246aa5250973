# SPDX-License-Identifier: Apache-2.0
"""The page's charts as SVG: text stays text, takes the page's colour, and fits a light and a dark page."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from scoresde_fast.bench.measured import BatchSeries, MeasuredNetwork

INK = "#123456"  # stands for the colour of the page's text until the SVG is written
OURS, THEIRS, FAINT = "#d9822b", "#6b8fb8", "#8a8f98"
KINDS = ("#2f6f9f", "#4f9d8f", "#8fb569", "#c9a94b", "#b86b6b", "#8a6bb8", "#5f6b7a")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scoresde-fast",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
}


def waterfall(network: MeasuredNetwork) -> Markup:
    """Horizontal bars, images a second of each variant, with the factor against the first."""
    measured = network.measured
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(7.2, 0.6 + 0.34 * len(measured))
        speeds = [found.images_per_second for _, found in measured]
        axes.barh(range(len(measured)), speeds, color=[_colour(variant.ours) for variant, _ in measured], height=0.72)
        axes.set_yticks(range(len(measured)), [variant.name for variant, _ in measured])
        axes.invert_yaxis()
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        for place, (_, found) in enumerate(measured):
            text = f"{found.images_per_second:.3g}  ({found.against_first:.2f}x)"
            axes.text(found.images_per_second + 0.01 * max(speeds), place, text, va="center")
        axes.set_xlim(0, 1.28 * max(speeds))
        axes.set_xlabel(f"images a second at {network.nfe} network evaluations an image")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, f"Images a second of each variant on {network.name}")


def against_batch(series: BatchSeries) -> Markup:
    """Time of an evaluation against the batch size, both logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(8.0, 3.6)
        batches = sorted({point.batch for points in series.points.values() for point in points})
        styles = (mark + dash for dash in ("-", "--", ":") for mark in "osD^v")
        for (name, points), style in zip(series.points.items(), styles, strict=False):
            x, y = [point.batch for point in points], [point.ms_per_nfe for point in points]
            axes.plot(x, y, style, color=_colour(series.ours[name]), label=name, linewidth=1.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("batch size")
        axes.set_ylabel("ms an evaluation")
        axes.grid(which="both")
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure, f"Time of an evaluation against the batch size on {series.name}")


def roofline(network: MeasuredNetwork, ceilings: dict[str, Any]) -> Markup:
    """Attainable and reached speed against operations a byte.

    Circles on the roof are the network's kinds of operations, the heaviest first, with their share of the work; squares
    are variants, at the intensity of the whole network.
    """
    peak, copy = 1e3 * ceilings["matmul_tflops"], ceilings["copy_gb_per_s"]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(6.4, 3.6)
        work, traffic = (sum(getattr(share, of) for share in network.operations) for of in ("gflop", "gbyte"))
        whole = work / traffic
        heavy = [share for share in network.operations if share.gflop >= 0.02 * work]
        intensities = [share.gflop / share.gbyte for share in heavy]
        corner = peak / copy
        low, high = 0.3 * min(whole, *intensities, corner), 3 * max(whole, *intensities, corner)
        axes.plot([low, corner, high], [low * copy, peak, peak], color=INK, linewidth=1.4)
        for share, intensity, colour in zip(heavy, intensities, KINDS, strict=False):
            name = f"{share.kind} {share.resolution}²" if share.resolution else share.kind
            label = f"{name}, {share.gflop / work:.0%}"
            axes.scatter([intensity], [min(peak, intensity * copy)], s=70, color=colour, label=label, zorder=3)
        measured = sorted(network.measured, key=lambda pair: pair[1].images_per_second)
        for variant, found in measured:
            axes.scatter([whole], [1e3 * found.tflops], marker="s", s=26, color=_colour(variant.ours))
        for variant, found in (measured[0], measured[-1]):
            place = (whole, 1e3 * found.tflops)
            axes.annotate(variant.name, place, xytext=(-7, -3), textcoords="offset points", ha="right", fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_xlabel("operations a byte")
        axes.set_ylabel("GFLOP/s")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        speeds = [1e3 * found.tflops for _, found in measured]
        axes.set_ylim(10 ** math.floor(math.log10(0.5 * min(speeds))), 1.6 * max(peak, *speeds))
        axes.grid(which="major")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return _svg(figure, f"Roofline of {network.name}")


def _colour(ours: bool) -> str:
    return OURS if ours else THEIRS


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, title: str) -> Markup:
    """The element for a page: no header, no metadata, no addresses."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace(INK, "currentColor")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))

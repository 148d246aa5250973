# SPDX-License-Identifier: Apache-2.0
"""SVG charts of the pages, in `STYLE`; text remains text and takes the colour of a light or dark page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from scoresde_fast.bench.ranking import MeasuredCase, best_of_curve, competing
from scoresde_fast.bench.results import BatchSeries, Comparison, MeasuredNetwork

INK = "#123456"  # placeholder for the text colour of the page; `_svg` replaces it
OURS, THEIRS, FAINT = "#d9822b", "#6b8fb8", "#8a8f98"
KINDS = ("#2f6f9f", "#4f9d8f", "#8fb569", "#c9a94b", "#b86b6b", "#8a6bb8", "#5f6b7a")
CURVES = ("#d9822b", "#2f6f9f", "#4f9d8f", "#c0504d", "#8a6bb8", "#9a9a2b", "#d66fb0", "#6b7a8f", "#3aa9d6", "#8c5a3c")
MARKERS = "osD^vPX<>*"
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
MOST_PEERS = 4
"""Largest number of main curves of other libraries."""
UPPER_EDGE = 100.0
"""Upper limit of the quality axis, as a multiple of the smallest value."""
COSTS = {"nfe": "network evaluations a sample", "seconds_per_1000": "seconds for 1000 samples"}


def waterfall(network: MeasuredNetwork) -> Markup:
    """Draw a bar for each variant: images a second, and the multiple of the first variant."""
    measured = network.measured
    axes = _axes(7.2, 0.6 + 0.34 * len(measured))
    speeds = [line.images_per_second for line in measured]
    axes.barh(range(len(measured)), speeds, color=[_colour(line.ours) for line in measured], height=0.72)
    axes.set_yticks(range(len(measured)), [line.name for line in measured])
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    for y, line in enumerate(measured):
        text = f"{line.images_per_second:.3g}  ({line.against_first:.2f}x)"
        axes.text(line.images_per_second + 0.01 * max(speeds), y, text, va="center")
    axes.set(xlim=(0, 1.28 * max(speeds)), xlabel=f"images a second at {network.nfe} network evaluations an image")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return _svg(axes, f"Images a second of each variant on {network.name}")


def against_batch(series: BatchSeries) -> Markup:
    """Draw the time of a network evaluation against the batch size, on logarithmic axes."""
    axes = _axes(8.0, 3.6)
    batches = sorted({point.batch for line in series.lines for point in line.points})
    styles = (marker + dash for dash in ("-", "--", ":") for marker in "osD^v")
    for line, style in zip(series.lines, styles, strict=False):
        x, y = [point.batch for point in line.points], [point.ms_per_nfe for point in line.points]
        axes.plot(x, y, style, color=_colour(line.ours), label=line.name, linewidth=1.8)
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", xlabel="batch size", ylabel="ms an evaluation")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="both")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _svg(axes, f"Time of an evaluation against the batch size on {series.name}")


def roofline(network: MeasuredNetwork, ceilings: dict[str, Any]) -> Markup:
    """Draw the attainable and the measured speed against the arithmetic intensity, in operations a byte.

    Circles on the roof are the network's main kinds of operations with their share of the work. Squares are variants,
    at the intensity of the whole network.
    """
    peak, bandwidth = 1e3 * ceilings["matmul_tflops"], ceilings["copy_gb_per_s"]
    axes = _axes(6.4, 3.6)
    work = sum(share.gflop for share in network.operations)
    network_intensity = work / sum(share.gbyte for share in network.operations)
    heavy = [share for share in network.operations if share.gflop >= 0.02 * work]
    intensities = [share.gflop / share.gbyte for share in heavy]
    corner = peak / bandwidth
    shown = [network_intensity, *intensities, corner]
    low, high = 0.3 * min(shown), 3 * max(shown)
    axes.plot([low, corner, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.4)
    for share, intensity, colour in zip(heavy, intensities, KINDS, strict=False):
        name = f"{share.kind} {share.resolution}²" if share.resolution else share.kind
        label = f"{name}, {share.gflop / work:.0%}"
        axes.scatter([intensity], [min(peak, intensity * bandwidth)], s=70, color=colour, label=label, zorder=3)
    measured = sorted(network.measured, key=lambda line: line.images_per_second)
    for line in measured:
        axes.scatter([network_intensity], [1e3 * line.tflops], marker="s", s=26, color=_colour(line.ours))
    for line in (measured[0], measured[-1]):
        point = (network_intensity, 1e3 * line.tflops)
        axes.annotate(line.name, point, xytext=(-7, -3), textcoords="offset points", ha="right", fontsize=9)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations a byte", ylabel="GFLOP/s")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    speeds = [1e3 * line.tflops for line in measured]
    axes.set_ylim(10 ** math.floor(math.log10(0.5 * min(speeds))), 1.6 * max(peak, *speeds))
    axes.grid(which="major")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _svg(axes, f"Roofline of {network.name}")


def quality(result: Comparison, cost: str) -> Markup:
    """Draw the distance to the data against ``cost``, with the Pareto front, the floor and the reference."""
    axes = _axes(10.4, 4.8)
    front = [result.lines[index] for index in result.ranking.fronts[cost]]
    x, y = [case.value(cost) for case in front], [case.quality for case in front]
    axes.plot(x, y, color=FAINT, alpha=0.35, linewidth=9, solid_capstyle="round", label="Pareto front")
    errors = [case.standard_error for case in front]
    axes.errorbar(x, y, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=4)
    values = _curves(axes, result, cost, "quality")
    if result.floor is not None:
        axes.axhline(result.floor, color=INK, linewidth=1, linestyle=":", label=result.floor_name)
        values.append(result.floor)
    for case in result.lines:
        if case.reference and not case.diverged:
            axes.axhline(case.quality, color=INK, linewidth=1, linestyle="--", label=case.name)
            values.append(case.quality)
    return _finish(axes, result, cost, values, result.measure, UPPER_EDGE)


def flow_error(result: Comparison) -> Markup | None:
    """Draw the error of each deterministic solver to the converged flow; return None if none was measured."""
    if all(case.flow_error is None for case in result.lines):
        return None
    axes = _axes(10.4, 4.8)
    errors = _curves(axes, result, "nfe", "flow_error")
    return _finish(axes, result, "nfe", errors, "RMS error to the converged flow", 1e6)


def _curves(axes: Axes, result: Comparison, cost: str, value: str) -> list[float]:
    """Draw a curve for each solver, and return the values; the legend lists main curves first, by last value."""
    styles = _styles(result)
    curves = best_of_curve([case for case in result.lines if case.value(cost) < math.inf], value)
    labels = {False: "other solvers", True: "other solvers of other libraries"}  # the first of each is in the legend
    for name, curve in sorted(curves.items(), key=lambda item: (item[0] not in styles, item[1][-1].value(value))):
        points = sorted((case.value(cost), case.value(value)) for case in curve)
        x, y = [point[0] for point in points], [point[1] for point in points]
        if name in styles:
            axes.plot(x, y, label=name, linewidth=1.6, markersize=5, **styles[name])
        else:
            peer = curve[0].library is not None
            dash = ":" if peer else "-"
            axes.plot(x, y, dash, label=labels[peer], color=FAINT, alpha=0.5, linewidth=0.8, zorder=1)
            labels[peer] = "_"
    return [case.value(value) for curve in curves.values() for case in curve]


def _styles(result: Comparison) -> dict[str, dict[str, Any]]:
    """Return colour, marker and dash of the main curves, the same in every chart.

    The main curves are the user's own, and those that come closest to the best quality at some budget, of which at most
    `MOST_PEERS` are those of other libraries. Stochastic solvers are dashed, solvers of other libraries dotted.
    """
    curves = best_of_curve(result.lines)

    def relative_quality(case: MeasuredCase) -> float:
        best = min(other.quality for other in competing(result.lines) if other.nfe <= case.nfe)
        own_first = 1 if case.solver in result.own else 0
        return case.quality / best - own_first

    closest = {name: min(map(relative_quality, curve)) for name, curve in curves.items()}
    ranked = sorted(closest, key=lambda name: closest[name])
    peers = [name for name in ranked if curves[name][0].library is not None]
    main = [name for name in ranked if name not in peers[MOST_PEERS:]][: len(CURVES)]
    return {
        name: {"color": colour, "marker": marker, "linestyle": _dash(curves[name][0])}
        for name, colour, marker in zip(sorted(main), CURVES, MARKERS, strict=False)
    }


def _dash(case: MeasuredCase) -> str:
    if case.library is None:
        return "-" if case.probability_flow else "--"
    return ":" if case.probability_flow else "-."


def _finish(axes: Axes, result: Comparison, cost: str, values: Sequence[float], label: str, edge: float) -> Markup:
    """Add logarithmic axes, a grid and the legend, and return the SVG."""
    axes.set(xscale="log", yscale="log", xlabel=COSTS[cost], ylabel=label)
    if values:
        axes.set_ylim(0.7 * min(values), min(1.4 * max(values), edge * min(values)))
    if cost == "nfe":
        budgets = sorted({case.budget for case in result.lines if case.budget})
        highest_nfe = max((case.nfe for case in competing(result.lines)), default=0)
        round_counts = [step * 10**power for power in range(4) for step in (1, 2, 5)]
        ticks = [*budgets, *(count for count in round_counts if max(budgets, default=0) < count <= highest_nfe)]
        axes.set_xticks(ticks, [str(count) for count in ticks])
    for axis in (axes.yaxis, *([] if cost == "nfe" else [axes.xaxis])):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=3)
    return _svg(axes, f"{label} against {COSTS[cost]}")


def fid_curve(curve: Sequence[tuple[int, float]]) -> Markup:
    """Draw FID against 1 / images, in which its bias is linear to first order."""
    axes = _axes(6.4, 3.4)
    counts, values = zip(*curve, strict=True)
    axes.plot([1 / count for count in counts], values, "o-", color=OURS, linewidth=1.8)
    axes.set_xticks([1 / count for count in counts], [f"1/{count}" for count in counts])
    axes.set(xlim=(0, None), ylim=(0, None), xlabel="1 / images", ylabel="FID")
    axes.grid()
    return _svg(axes, "FID against the number of images")


def _colour(ours: bool) -> str:
    return OURS if ours else THEIRS


def _axes(width: float, height: float) -> Axes:
    figure = Figure((width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return axes


def _svg(axes: Axes, title: str) -> Markup:
    """Return the figure of the axes as an SVG element, without header, metadata and namespaces."""
    buffer = io.StringIO()
    assert isinstance(axes.figure, Figure)
    axes.figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace(INK, "currentColor")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))

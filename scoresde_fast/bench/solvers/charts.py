# SPDX-License-Identifier: Apache-2.0
"""The comparison's charts: a curve a solver, of its best order and grid at each budget."""

from __future__ import annotations

from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from scoresde_fast.bench import charts
from scoresde_fast.bench.solvers.verdict import Line, best_of_curve, competing

COLOURS = ("#d9822b", "#2f6f9f", "#4f9d8f", "#c0504d", "#8a6bb8", "#9a9a2b", "#d66fb0", "#6b7a8f", "#3aa9d6", "#8c5a3c")
MARKERS = "osD^vPX<>*"
WORST = 100.0
"""The largest quality that a chart shows, as a factor of the smallest: curves go on beyond its upper edge."""
LABELS = {"nfe": "network evaluations a sample", "seconds_per_1000": "seconds for 1000 samples"}


def quality(result: dict[str, Any], cost: str) -> Markup:
    """The result's measure against ``cost``, with the Pareto front, the floor and the reference."""
    lines = result["lines"]
    with matplotlib.rc_context(charts.STYLE):
        figure, axes = charts._figure(10.4, 4.8)
        front = [lines[place] for place in result["verdict"]["fronts"][cost]]
        place, best = [line[cost] for line in front], [line["quality"] for line in front]
        axes.plot(
            place, best, color=charts.FAINT, alpha=0.35, linewidth=9, solid_capstyle="round", label="Pareto front"
        )
        axes.errorbar(
            place, best, [line["standard_error"] for line in front],
            fmt="none", ecolor=charts.INK, elinewidth=1, capsize=3, zorder=4,
        )  # fmt: skip
        levels = _curves(axes, result, cost, "quality")
        levels += _level(axes, result["floor_name"], result["floor"], ":")
        for line in lines:
            if line["reference"] and line["quality"] is not None:
                levels += _level(axes, line["name"], line["quality"], "--")
        return _finish(figure, axes, result, cost, levels, result["measure"])


def flow_error(result: dict[str, Any]) -> Markup | None:
    """Error to the converged flow of each deterministic solver; None where none was measured."""
    if all(line["flow_error"] is None for line in result["lines"]):
        return None
    with matplotlib.rc_context(charts.STYLE):
        figure, axes = charts._figure(10.4, 4.8)
        errors = _curves(axes, result, "nfe", "flow_error")
        return _finish(figure, axes, result, "nfe", errors, "RMS error to the converged flow", worst=1e6)


def styles(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash of the curves that are told apart, the same in every chart: noisy solvers are dashed.

    They are those that come nearest to the best at some budget, and the user's own.
    """
    curves = best_of_curve(result["lines"])

    def behind(line: Line) -> float:
        within = [other["quality"] for other in competing(result["lines"]) if other["nfe"] <= line["nfe"]]
        return line["quality"] / min(within) - (line["solver"] in result["own"])

    nearest = {name: min(map(behind, curve)) for name, curve in curves.items()}
    told = sorted(sorted(nearest, key=lambda name: nearest[name])[: len(COLOURS)])
    looks = zip(told, COLOURS, MARKERS, strict=False)
    return {
        name: {"color": colour, "marker": marker, "linestyle": "-" if curves[name][0]["flow"] else "--"}
        for name, colour, marker in looks
    }


def _curves(axes: Axes, result: dict[str, Any], cost: str, value: str) -> list[float]:
    """Draws the curves, those that end best first in the legend; returns what they pass through."""
    looks = styles(result)
    found = best_of_curve([line for line in result["lines"] if line[cost] is not None], value)
    rest = "other solvers"
    for name, curve in sorted(found.items(), key=lambda item: (item[0] not in looks, item[1][-1][value])):
        points = sorted((line[cost], line[value]) for line in curve)
        x, y = [point[0] for point in points], [point[1] for point in points]
        if name in looks:
            axes.plot(x, y, label=name, linewidth=1.6, markersize=5, **looks[name])
        else:
            axes.plot(x, y, label=rest, color=charts.FAINT, alpha=0.5, linewidth=0.8, zorder=1)
            rest = "_" + rest.lstrip("_")  # once in the legend
    return [line[value] for curve in found.values() for line in curve]


def _level(axes: Axes, name: str, value: float, dash: str) -> list[float]:
    axes.axhline(value, color=charts.INK, linewidth=1, linestyle=dash, label=name)
    return [value]


def _finish(
    figure: Any, axes: Axes, result: dict[str, Any], cost: str, values: list[float], label: str, worst: float = WORST
) -> Markup:
    axes.set_xscale("log")
    axes.set_yscale("log")
    if values:
        axes.set_ylim(0.7 * min(values), min(1.4 * max(values), worst * min(values)))
    if cost == "nfe":
        budgets = sorted({line["budget"] for line in result["lines"] if line["budget"]})
        most = max((line["nfe"] for line in competing(result["lines"])), default=0)
        round_counts = [step * 10**power for power in range(4) for step in (1, 2, 5)]
        beyond = [count for count in round_counts if max(budgets, default=0) < count <= most]
        axes.set_xticks([*budgets, *beyond], [str(count) for count in (*budgets, *beyond)])
    for axis in (axes.yaxis, *([] if cost == "nfe" else [axes.xaxis])):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(LABELS[cost])
    axes.set_ylabel(label)
    axes.grid(which="major")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=3)
    return charts._svg(figure, f"{label} against {LABELS[cost]}")

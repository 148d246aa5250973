# SPDX-License-Identifier: Apache-2.0
"""The comparison as one page of HTML that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoresde_fast.bench import pages
from scoresde_fast.bench.solvers.verdict import Line, best_of_curve, competing, describe


def write_html(result: dict[str, Any], path: Path) -> None:
    """Write the page of a result of `scoresde_fast.bench.solvers.compare.compare`.

    Raises:
        ValueError: matplotlib or Jinja2 is not there.
    """
    pages.write(render(result), path)


def render(result: dict[str, Any]) -> str:
    """The page: what to use, the charts, the best of each solver at each budget, images, and every line."""
    pages.require_libraries()
    from scoresde_fast.bench.solvers import charts

    measured = [line for line in result["lines"] if line["quality"] is not None]
    return pages.render(
        "solvers.html",
        result=result,
        describe=describe,
        charts={cost: charts.quality(result, cost) for cost in charts.LABELS if competing(measured, cost)},
        worst=f"{charts.WORST:g}",
        flow_error=charts.flow_error(result) if measured else None,
        budgets=[found["limit"] for found in result["verdict"]["by_nfe"]],
        table=table(result),
        lines=sorted(measured, key=lambda line: (line["nfe"], line["quality"])),
        fronts={place for front in result["verdict"]["fronts"].values() for place in front},
        diverged=grouped([line | {"reason": "diverged"} for line in result["lines"] if line["diverged"]]),
        skipped=grouped(result["skipped"]),
        left_out=grouped(result["left_out"]),
    )


def table(result: dict[str, Any]) -> dict[str, list[dict[str, Any] | None]]:
    """By curve, for each budget its best ``line``, and how it does: ``best``, ``tied`` or neither."""
    lines, found = result["lines"], result["verdict"]["by_nfe"]
    rows: dict[str, list[dict[str, Any] | None]] = {}
    for name, curve in best_of_curve(lines).items():
        rows[name] = [_cell(lines, curve, limit) for limit in found]
    last = {name: next((cell["line"]["quality"] for cell in reversed(row) if cell), 0.0) for name, row in rows.items()}
    return dict(sorted(rows.items(), key=lambda item: last[item[0]]))


def grouped(cases: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name, what of it and why) with the cases of one name and reason joined."""
    found: dict[tuple[str, str], dict[str, dict[Any, None]]] = {}
    for case in cases:
        group = found.setdefault((case["name"], case["reason"]), {"grid": {}, "order": {}, "budget": {}})
        for key, values in group.items():
            if case[key] is not None:
                values[case[key]] = None
    words = {"grid": "grids", "order": "orders", "budget": "budgets"}
    return [
        (name, "; ".join([f"{words[key]} {', '.join(map(str, values))}" for key, values in group.items() if values]
                         + [reason]))
        for (name, reason), group in found.items()
    ]  # fmt: skip


def _cell(lines: list[Line], curve: list[Line], found: dict[str, Any]) -> dict[str, Any] | None:
    within = [line for line in curve if line["nfe"] <= found["limit"]]
    if not within:
        return None
    line = min(within, key=lambda line: line["quality"])
    place = lines.index(line)
    mark = "best" if place == found["best"] else "tied" if place in found["tied"] else ""
    return {"line": line, "mark": mark}

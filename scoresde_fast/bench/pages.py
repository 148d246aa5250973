# SPDX-License-Identifier: Apache-2.0
"""HTML pages of results; each page is one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from scoresde_fast.bench.ranking import MeasuredCase, best_of_curve, competing, tied
from scoresde_fast.bench.results import BenchResult, Comparison, UnmeasuredCase
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.errors import require_packages
from scoresde_fast.evaluation.metrics import TITLES
from scoresde_fast.evaluation.run import Evaluation
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.pixels import compose

LIBRARIES = ("matplotlib", "jinja2")


def require_libraries() -> None:
    """Raise `MissingPackageError` unless the libraries of pages are installed."""
    require_packages("the page of --html", *LIBRARIES)


def write_html(result: BenchResult | Comparison | Evaluation, path: Path) -> None:
    """Write the page of a result and create its folder; raises the errors of `require_libraries`."""
    page = render(result)
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(page.encode())


def render(result: BenchResult | Comparison | Evaluation) -> str:
    """Return the page of a result; raises the errors of `require_libraries`."""
    require_libraries()
    import matplotlib
    from jinja2 import Environment, PackageLoader

    from scoresde_fast.bench import charts

    loader = PackageLoader("scoresde_fast.bench")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "png": _png}
    environment.globals |= {"charts": charts, "zip": zip}
    values: dict[str, Any]
    if isinstance(result, BenchResult):
        name, values = "sampling", {"result": result}
    elif isinstance(result, Comparison):
        costs = [cost for cost in charts.COSTS if competing(result.lines, cost)]
        name, values = "solvers", {"result": result, "costs": costs, **_tables(result)}
    else:
        name, values = "evaluation", {"result": result.result, "evaluation": result, "titles": TITLES}
    with matplotlib.rc_context(charts.STYLE):
        return environment.get_template(f"{name}.html").render(**values)


def format_number(value: float | None, digits: int = 3) -> str:
    """Format a number with ``digits`` significant digits and no exponent; None becomes a hyphen."""
    if value is None:
        return "-"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.10f}".rstrip("0").rstrip(".") if value else "0"


def _png(images: Tensor, columns: int | None = None) -> str:
    """Return a base64 PNG with a grid of images (N, C, H, W) uint8; it shows channel 0 unless C is 1 or 3."""
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    pixels = list(images.permute(0, 2, 3, 1).numpy())
    return base64.b64encode(encode_png(compose(pixels, columns))).decode()


def _tables(result: Comparison) -> dict[str, Any]:
    """Return the best case of each solver at each budget, and lists of all cases."""
    on_front = {index for front in result.ranking.fronts.values() for index in front}
    measured = [(case, index in on_front) for index, case in enumerate(result.lines) if not case.diverged]
    diverged = [UnmeasuredCase(**case.case_fields(), reason="diverged") for case in result.lines if case.diverged]
    limits, table = best_table(result)
    return {
        "peers": {case.name for case in result.lines if case.library is not None},
        "limits": limits,
        "table": table,
        "lines": sorted(measured, key=lambda item: (item[0].nfe, item[0].quality)),
        "unmeasured": {
            "Diverged": _grouped(diverged),
            "Not possible": _grouped(result.skipped),
            "Left out for lack of time": _grouped(result.left_out),
        },
    }


class Cell(NamedTuple):
    """A curve's best case at a budget; ``mark`` is "best" or "tied" if it is so among all curves, else empty."""

    case: MeasuredCase
    mark: str


def best_table(result: Comparison) -> tuple[list[float], dict[str, list[Cell | None]]]:
    """Return the budgets, and the row of each curve, a cell for each budget, sorted by quality at the largest budget.

    Each case stands in the column of the smallest budget that it fits, and in no other: a curve without a case there
    has None. Budgets without any case are omitted.
    """
    columns: list[tuple[float, list[MeasuredCase]]] = []
    curves = best_of_curve(result.lines)
    cases, below = [case for curve in curves.values() for case in curve], 0.0
    for limit in (best.limit for best in result.ranking.by_nfe):
        if column := sorted((case for case in cases if below < case.nfe <= limit), key=lambda case: case.quality):
            columns.append((limit, column))
        below = limit
    rows: dict[str, list[Cell | None]] = {
        name: [_cell(name, column, result.chance) for _, column in columns] for name in curves
    }

    def order(name: str) -> list[tuple[bool, float]]:
        """Return the sort key: the quality at the largest budget, then at the one before."""
        return [(cell is None, 0.0 if cell is None else cell.case.quality) for cell in reversed(rows[name])]

    return [limit for limit, _ in columns], {name: rows[name] for name in sorted(rows, key=order)}


def _cell(name: str, column: Sequence[MeasuredCase], chance: float) -> Cell | None:
    """Return the cell of the curve ``name`` in a column of cases, sorted by quality."""
    case = next((case for case in column if case.name == name), None)
    if case is None:
        return None
    if case is column[0]:
        return Cell(case, "best")
    return Cell(case, "tied" if tied(case, column[0], chance) else "")


def _grouped(cases: Sequence[UnmeasuredCase]) -> list[tuple[str, str]]:
    """Group cases by name and reason: return (name, "grids ...; orders ...; budgets ...; reason") of each group."""
    groups: dict[tuple[str, str], list[UnmeasuredCase]] = {}
    for case in cases:
        groups.setdefault((case.name, case.reason), []).append(case)
    lines = []
    for (name, reason), group in groups.items():
        parts = []
        for key in ("grid", "order", "budget"):
            values = dict.fromkeys(getattr(case, key) for case in group)
            if words := [str(value) for value in values if value is not None]:
                parts.append(f"{key}s {', '.join(words)}")
        lines.append((name, "; ".join([*parts, reason])))
    return lines

# SPDX-License-Identifier: Apache-2.0
"""HTML pages of results; each page is one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from scoresde_fast.bench.ranking import Best, MeasuredCase, best_of_curve, competing
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
    return {
        "table": best_table(result),
        "lines": sorted(measured, key=lambda item: (item[0].nfe, item[0].quality)),
        "unmeasured": {
            "Diverged": _grouped(diverged),
            "Not possible": _grouped(result.skipped),
            "Left out for lack of time": _grouped(result.left_out),
        },
    }


class Cell(NamedTuple):
    """A curve's best case within a budget; ``mark`` is "best" or "tied" if it is so among all curves, else empty."""

    case: MeasuredCase
    mark: str


def best_table(result: Comparison) -> dict[str, list[Cell | None]]:
    """Return the row of each curve, a cell for each budget; the rows are sorted by quality at the largest budget."""
    rows = {
        name: [_cell(result, curve, best) for best in result.ranking.by_nfe]
        for name, curve in best_of_curve(result.lines).items()
    }
    last = {name: next((cell.case.quality for cell in reversed(row) if cell), 0.0) for name, row in rows.items()}
    return dict(sorted(rows.items(), key=lambda item: last[item[0]]))


def _cell(result: Comparison, curve: Sequence[MeasuredCase], best: Best) -> Cell | None:
    within = [case for case in curve if case.nfe <= best.limit]
    if not within:
        return None
    case = min(within, key=lambda case: case.quality)
    index = result.lines.index(case)
    if index == best.best:
        return Cell(case, "best")
    return Cell(case, "tied" if index in best.tied else "")


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

# SPDX-License-Identifier: Apache-2.0
"""A benchmark's result as one page of HTML that needs nothing else."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing

LIBRARIES = ("matplotlib", "jinja2")


def require_libraries() -> None:
    """Raises `MissingPackageError` unless the page can be made here."""
    require_packages("the page of --html", *LIBRARIES)


def write_html(result: dict[str, Any], path: Path) -> None:
    """Write the page of a result of `scoresde_fast.bench.result.bench`; the errors of `require_libraries`."""
    page = render(result)
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(page.encode())


def render(result: dict[str, Any]) -> str:
    """The page: for each network the waterfall, its figures and its roofline; time against batch size."""
    require_libraries()
    from jinja2 import Environment

    from scoresde_fast.bench import charts

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figures"] = figures
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    networks = [
        {
            **network,
            "measured": [line for line in network["lines"] if "left_out" not in line],
            "left_out": [line for line in network["lines"] if "left_out" in line],
            **summary(network),
            "waterfall": charts.waterfall(network),
            "roofline": charts.roofline(network, result["ceilings"]),
        }
        for network in result["networks"]
    ]
    batches = [{**series, "chart": charts.against_batch(series)} for series in result["batches"]]
    return template.render(result=result, networks=networks, batches=batches)


def summary(network: dict[str, Any]) -> dict[str, Any]:
    """The network's ``first`` line, its fastest ``other`` and its fastest of ``ours``, None where there is none."""
    measured = [line for line in network["lines"] if "left_out" not in line]

    def fastest(ours: bool) -> dict[str, Any] | None:
        lines = [line for line in measured if line["ours"] == ours and line["within_stated"]]
        return max(lines, key=lambda line: line["images_per_second"], default=None)

    return {"first": measured[0], "other": fastest(False), "best": fastest(True)}


def figures(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent; a hyphen for None."""
    if value is None:
        return "-"
    return f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".") if value else "0"

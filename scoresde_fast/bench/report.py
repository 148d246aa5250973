# SPDX-License-Identifier: Apache-2.0
"""The page of a sampling benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoresde_fast.bench import pages


def write_html(result: dict[str, Any], path: Path) -> None:
    """Write the page of a result of `scoresde_fast.bench.result.bench`; the errors of `pages.require_libraries`."""
    pages.write(render(result), path)


def render(result: dict[str, Any]) -> str:
    """The page: for each network the waterfall, its figures and its roofline; time against batch size."""
    pages.require_libraries()
    from scoresde_fast.bench import charts

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
    return pages.render("sampling.html", result=result, networks=networks, batches=batches)


def summary(network: dict[str, Any]) -> dict[str, Any]:
    """The network's ``first`` line, its fastest ``other`` and its fastest of ``ours``, None where there is none."""
    measured = [line for line in network["lines"] if "left_out" not in line]

    def fastest(ours: bool) -> dict[str, Any] | None:
        lines = [line for line in measured if line["ours"] == ours and line["within_stated"]]
        return max(lines, key=lambda line: line["images_per_second"], default=None)

    return {"first": measured[0], "other": fastest(False), "best": fastest(True)}

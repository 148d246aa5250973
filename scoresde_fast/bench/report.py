# SPDX-License-Identifier: Apache-2.0
"""The page of a sampling benchmark."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.bench import pages
from scoresde_fast.bench.measured import BenchResult


def write_html(result: BenchResult, path: Path) -> None:
    """Write the page; the errors are those of `pages.require_libraries`."""
    pages.write(render(result), path)


def render(result: BenchResult) -> str:
    """The page: for each network the waterfall, its figures and its roofline; time against batch size."""
    pages.require_libraries()
    from scoresde_fast.bench import charts

    pictures = {
        network.name: (charts.waterfall(network), charts.roofline(network, result.ceilings))
        for network in result.networks
    }
    batches = [(series.name, charts.against_batch(series)) for series in result.batches]
    return pages.render("sampling.html", result=result, pictures=pictures, batches=batches)

# SPDX-License-Identifier: Apache-2.0
"""CLD's measurements as the tables of docs/cld.md: python benchmarks/cld.py --table, or --page to renew them

The figures are those of cld_mixture.py and cld_digits.py, read from benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parent.parent / "docs"
NAMES = {"sscs": "SSCS", "em": "Euler-Maruyama", "gddim": "gDDIM"}


def find(rows: Iterable[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The first row that has all of ``wanted``; StopIteration where none has."""
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def mixture_tables(result: dict[str, Any]) -> dict[str, list[str]]:
    """Distances, errors to the ODE and orders of cld-mixture.json, as markdown."""
    return {
        "distance": _distances(result["distance"]),
        "ode": _ode_errors(result["ode"]),
        "orders": _orders(result["orders"]),
    }


def _distances(part: dict[str, Any]) -> list[str]:
    rows = part["rows"]
    lines = [
        "| steps | SSCS, quadratic | Euler-Maruyama, quadratic | apart by | SSCS, uniform | Euler-Maruyama, uniform | "
        "apart by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for steps in (row["steps"] for row in rows if row["grid"] == "quadratic"):
        cells = [str(steps)]
        for grid in ("quadratic", "uniform"):
            row = find(rows, steps=steps, grid=grid)
            cells += [f"{row[solver]['pooled']:.4f}" for solver in ("sscs", "em")]
            cells.append(f"{row['difference_in_standard_errors']:.1f}")
        lines.append(_row(cells))
    return [*lines, _row(["exact draws", f"{part['floor']['pooled']:.4f}", *[""] * 5])]


def _ode_errors(part: dict[str, Any]) -> list[str]:
    counts = list(dict.fromkeys(row["nfe"] for row in part["rows"]))
    lines = [_row(["evaluations", *map(str, counts)]), _row(["---"] * (len(counts) + 1))]
    for solver, order in dict.fromkeys((row["solver"], row["order"]) for row in part["rows"]):
        name = "Euler" if solver == "em" else f"gDDIM, order {order}"
        errors = [find(part["rows"], solver=solver, order=order, nfe=nfe)["rms"] for nfe in counts]
        lines.append(_row([name, *[f"{error:.3f}" for error in errors]]))
    return lines


def _orders(rows: Sequence[dict[str, Any]]) -> list[str]:
    sizes = [name for name in rows[0]["errors"]]
    lines = [
        _row(["solver", "order", "measured", *[f"error at {size} steps" for size in sizes]]),
        _row(["---"] * (len(sizes) + 3)),
    ]
    for row in rows:
        name = "Euler on the flow" if row["flow"] and row["solver"] == "em" else NAMES[row["solver"]]
        errors = [f"{row['errors'][size]:.1e}" for size in sizes]
        lines.append(_row([name, str(row["claimed"]), f"{row['measured']:.2f}", *errors]))
    return lines


def digits_tables(result: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of cld-digits.json, as markdown."""
    lines = [
        "| solver | grid | NFE | Frechet distance | recognised | tint matches |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = list(NAMES)

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return (
            names.index(row["solver"]),
            row["eta"] or 0,
            row["order"] or 0,
            row["grid"],
            row["eps"] or 0,
            row["steps"],
        )

    for row in sorted(result["rows"], key=place):
        name = NAMES[row["solver"]] + (f", order {row['order']}" if row["order"] else "")
        name += f", eta {row['eta']:g}" if row["eta"] else ""
        shares = [f"{row[share]:.1%}" for share in ("recognised", "tint_matches")]
        grid = row["grid"] + (f", eps {row['eps']:g}" if row["eps"] else "")
        lines.append(_row([name, grid, str(row["nfe"]), f"{row['frechet_to_data']:.2f}", *shares]))
    real = result["real_held_out"]
    shares = [f"{real[share]:.1%}" for share in ("recognised", "tint_matches")]
    halves = f"{result['frechet_between_halves_of_data']:.2f} (half to half)"
    return {"digits": [*lines, _row(["real, held out", "", "", halves, *shares])]}


def all_tables() -> dict[str, list[str]]:
    """The tables of the results that are there, by the name that they have on the page."""
    tables: dict[str, list[str]] = {}
    for name, of in (("cld-mixture", mixture_tables), ("cld-digits", digits_tables)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            tables |= of(json.loads(path.read_text()))
        else:
            print(f"{path} is not there; python benchmarks/{name.replace('-', '_')}.py writes it", file=sys.stderr)
    return tables


def filled(page: str, tables: dict[str, list[str]]) -> str:
    """The page with each table after its mark, ``<!-- table: NAME -->``, in place of the one that was there."""
    for name, lines in tables.items():
        mark = f"<!-- table: {name} -->\n"
        table = "".join(f"{line}\n" for line in lines)
        # no cell holds a backslash, which a replacement would read
        page = re.sub(re.escape(mark) + r"(\|.*\n)*", mark + table, page)
    return page


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--table", action="store_true", help="print the tables as markdown")
    action.add_argument("--page", action="store_true", help="put them into docs/cld.md, each after its mark")
    if parser.parse_args().page:
        page = DOCS / "cld.md"
        page.write_text(filled(page.read_text(), all_tables()))
    else:
        print("\n\n".join("\n".join(lines) for lines in all_tables().values()))


if __name__ == "__main__":
    main()

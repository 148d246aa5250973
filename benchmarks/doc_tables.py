# SPDX-License-Identifier: Apache-2.0
"""Tables of the longer pages of docs/, from benchmarks/results alone: python -m benchmarks.doc_tables [--write]"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import MODELS, RESULTS, cld_grid, cld_title, find, frechet, halves, load, shares, table

DOCS = Path(__file__).resolve().parents[1] / "docs"
SDES = {"ve": "VE", "vp": "VP", "subvp": "sub-VP", "cld": "CLD"}
CLD_SOLVERS = {"sscs": "SSCS", "em": "Euler-Maruyama", "gddim": "gDDIM"}


# docs/cld.md


def cld_mixture(result: dict[str, Any]) -> dict[str, list[str]]:
    """Return the tables of distances, errors to the ODE and orders, by their names on the page."""
    return {
        "distance": _distances(result["distance"]),
        "ode": _ode_errors(result["ode"]["rows"]),
        "orders": _orders(result["orders"]),
    }


def _distances(part: dict[str, Any]) -> list[str]:
    lines, rows = part["rows"], []
    for steps in (line["steps"] for line in lines if line["grid"] == "quadratic"):
        cells = [steps]
        for grid in ("quadratic", "uniform"):
            line = find(lines, steps=steps, grid=grid)
            cells += [f"{line[solver]['pooled']:.4f}" for solver in ("sscs", "em")]
            cells.append(f"{line['difference_in_standard_errors']:.1f}")
        rows.append(cells)
    rows.append(["exact draws", f"{part['floor']['pooled']:.4f}", *[""] * 5])
    titles = [[f"SSCS, {grid}", f"Euler-Maruyama, {grid}", "apart by"] for grid in ("quadratic", "uniform")]
    return table(["steps", *titles[0], *titles[1]], rows)


def _ode_errors(lines: Sequence[dict[str, Any]]) -> list[str]:
    counts, rows = list(dict.fromkeys(line["nfe"] for line in lines)), []
    for solver, order in dict.fromkeys((line["solver"], line["order"]) for line in lines):
        errors = [f"{find(lines, solver=solver, order=order, nfe=nfe)['rms']:.3f}" for nfe in counts]
        rows.append(["Euler" if solver == "em" else f"gDDIM, order {order}", *errors])
    return table(["evaluations", *map(str, counts)], rows)


def _orders(lines: Sequence[dict[str, Any]]) -> list[str]:
    sizes, rows = list(lines[0]["errors"]), []
    for line in lines:
        name = "Euler on the flow" if line["flow"] and line["solver"] == "em" else CLD_SOLVERS[line["solver"]]
        errors = [f"{line['errors'][size]:.1e}" for size in sizes]
        rows.append([name, line["claimed"], f"{line['measured']:.2f}", *errors])
    return table(["solver", "order", "measured", *(f"error at {size} steps" for size in sizes)], rows)


def cld_digits(result: dict[str, Any]) -> dict[str, list[str]]:
    """Return the table of all rows of cld-digits.json, by its name on the page."""
    names = list(CLD_SOLVERS)

    def sort_key(line: dict[str, Any]) -> tuple[Any, ...]:
        order, eps = line["order"] or 0, line["eps"] or 0
        return names.index(line["solver"]), line["eta"] or 0, order, line["grid"], eps, line["steps"]

    rows: list[list[Any]] = [
        [cld_title(CLD_SOLVERS[line["solver"]], line), cld_grid(line), line["nfe"], frechet(line), *shares(line)]
        for line in sorted(result["rows"], key=sort_key)
    ]
    rows.append(["real, held out", "", "", halves(result), *shares(result["real_held_out"])])
    return {"digits": table(["solver", "grid", "NFE", "Frechet distance", "recognised", "tint matches"], rows)}


def cld_tables() -> dict[str, list[str]]:
    """Return the tables of docs/cld.md by their names."""
    return {**cld_mixture(load("cld-mixture")), **cld_digits(load("cld-digits"))}


def filled(page: str, tables: dict[str, list[str]]) -> str:
    """Return the page with the tables replaced that follow the marks ``<!-- table: NAME -->``."""
    for name, lines in tables.items():
        mark = f"<!-- table: {name} -->\n"
        # re.sub would interpret backslashes, but no cell contains one.
        page = re.sub(re.escape(mark) + r"(\|.*\n)*", mark + "".join(f"{line}\n" for line in lines), page)
    return page


# docs/conditional.md


METHODS = {"projection": "projection", "both": "projection and PiGDM", "pigdm": "PiGDM", "dps": "DPS"}
TASKS = {"inpainting": "one pixel of four", "gray": "gray", "2x": "means over 2x2"}


def _percents(line: dict[str, Any]) -> str:
    return f"{100 * line['mean']:.1f} / {100 * line['covariance']:.1f}"


def conditional_truth() -> list[str]:
    """Return the errors of mean and covariance of 20 000 conditional samples, in percent."""
    lines, rows = load("conditional-truth")["lines"], []
    for data in ("gaussian", "mixture"):
        for task, known in TASKS.items():
            for method, title in METHODS.items():
                of_sdes = [lines.get(f"{data}/{method}/{task}/{sde}") for sde in SDES]
                rows.append([data, known, title, *(_percents(line) if line else "-" for line in of_sdes)])
    return table(["data", "known", "by", *SDES.values()], rows)


def conditional_bias() -> list[str]:
    """Return the exact bias of projection on Gaussian data, in percent."""
    lines = load("conditional-bias")["lines"]
    columns = list(dict.fromkeys((line["sde"], line["grid"]) for line in lines))
    rows = [
        [TASKS[known], f"{steps} x {corrections}", *(
            _percents(find(lines, known=known, steps=steps, corrector_steps=corrections, sde=sde, grid=grid))
            for sde, grid in columns
        )]
        for known, steps, corrections in dict.fromkeys(
            (line["known"], line["steps"], line["corrector_steps"]) for line in lines
        )
    ]  # fmt: skip
    return table(["known", "steps x correctors", *(f"{SDES[sde]}, {grid}" for sde, grid in columns)], rows)


def conditional_digits() -> list[str]:
    """Return the shares of conditional samples with the right class or hue."""
    result, rows = load("conditional-digits"), []
    filled_in, coloured = "lower half filled in, of the original's class", "coloured with the hue of their class"
    lines: list[tuple[str, str, str, str | None]] = [("of the asked class, guided", "classes", "asked_class", None)]
    lines += [("the same without guidance", "classes", "asked_class_without", None)]
    for title, part, key in ((filled_in, "halves", "class_of_original"), (coloured, "colours", "hue_of_class")):
        lines.append((f"{title}: projection", part, key, "projection"))
        lines.append(("the same with corrector steps", part, key, "corrected"))
        lines.append(('the same, `method="pigdm"`', part, key, "pigdm"))
    for title, part, key, method in lines:
        of_models = [result[part][name] if method is None else result[part][name][method] for name in MODELS]
        rows.append([title, *(f"{measured[key]:.1%}" for measured in of_models)])
    return table([f"of {result['count']} digits", *(f"`{name}`" for name in MODELS)], rows)


def conditional_restored() -> list[str]:
    """Return the root mean squared errors of restored digits, for the models that were measured."""
    result = load("conditional-digits")["restore"]
    models = [name for name in MODELS if name in result]
    errors = {name: result[name]["rmse_pigdm"] for name in models}
    rows = [[task, *(f"{errors[name][task]:.3f}" for name in models)] for task in errors[models[0]]]
    return table([f"measured, with noise {result[models[0]]['noise']}", *(f"`{name}`" for name in models)], rows)


def conditional_cost() -> list[str]:
    """Return the cost of a step with a condition, relative to a step without."""
    result, rows = load("conditional-digits")["cost"], []
    for name in MODELS:
        ratios = [f"{result[name]['steps_of_none'][kind]:.2f}" for kind in ("classes", "pigdm", "dps")]
        rows.append([f"`{name}`", f"{result[name]['projection_share']:.1%}", *ratios])
    return table(["cost relative to a step without a condition", "projection adds", "classes", "PiGDM", "DPS"], rows)


# docs/portability.md


def processors() -> list[str]:
    """Return the results of the tests for each processor and each choice of instructions."""
    levels, rows = {1: "x86-64", 3: "x86-64-v3", 4: "x86-64-v4"}, []
    for file in sorted(RESULTS.glob("portability-*.json")):
        result = load(file.stem)
        versions = result["device"]["versions"]
        name = f"{file.stem.removeprefix('portability-')}, torch {versions['torch']}, Python {versions['python']}"
        for row in result["rows"]:
            settings = [f"our kernels for {levels[row['level']]}"] if row["level"] else []
            settings += [f"`{setting}`" for setting in row["settings"].split()]
            settings += ["2 threads"] if row["threads"] > 1 else []
            counts = ["-", row["not_run"]] if "not_run" in row else [row["passed"], row["failed"]]
            rows.append([name, row["name"], ", ".join(settings) or "-", *counts])
            name = ""
    return table(["processor", "instructions", "settings", "passed", "failed"], rows)


def versions() -> list[str]:
    """Return the results of the tests in each environment of `make matrix`."""
    libraries = ("python", "torch", "triton", "numpy", "scipy", "setuptools")
    rows = [
        [row["cpu"], *(row["versions"][name] for name in libraries), row["extension"], row["passed"], row["failed"]]
        for row in load("matrix")["rows"]
    ]
    return table(["processor", *libraries, "extension", "passed", "failed"], rows)


def installed() -> list[str]:
    """Return the speed of a plain install against the checkout's environment."""
    result = load("install-speed")

    def side(name: str) -> str:
        versions = result[name]["device"]["versions"]
        return f"{result[name]['seconds']:.2f} s (Python {versions['python']}, torch {versions['torch']})"

    ratio = f"{result['installed_over_checkout']:.2f} times as long"
    return [f"{side('installed')}; in the checkout's `.venv` {side('checkout')}: {ratio}"]


PAGES: dict[str, tuple[Callable[[], list[str]], ...]] = {
    "conditional.md": (
        conditional_truth, conditional_bias, conditional_digits, conditional_restored, conditional_cost,
    ),
    "portability.md": (processors, versions, installed),
}  # fmt: skip
"""The tables of each page, except cld.md, which has marks for its tables."""


def main() -> None:
    """Print the tables of all pages, or update those of docs/cld.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="update the tables in docs/cld.md instead")
    if parser.parse_args().write:
        page = DOCS / "cld.md"
        page.write_text(filled(page.read_text(), cld_tables()))
        return
    made = {page: [make() for make in tables] for page, tables in PAGES.items()}
    for name, tables in {"cld.md": [*cld_tables().values()], **made}.items():
        print(name, *("\n".join(lines) for lines in tables), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()

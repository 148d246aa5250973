# SPDX-License-Identifier: Apache-2.0
"""Tables of the studies of CLD and conditional sampling, and of the runs on other machines; see `benchmarks.tables`.

The functions for docs/cld.md accept another result of the study; by default they read the committed one.
"""

from __future__ import annotations

from typing import Any

from benchmarks.table_cells import MODELS, RESULTS, find, halves, load, shares, table

SDES = {"ve": "VE", "vp": "VP", "subvp": "sub-VP", "cld": "CLD"}
CLD_SOLVERS = {"sscs": "SSCS", "em": "Euler-Maruyama", "gddim": "gDDIM"}


# docs/cld.md, and the table of its solvers in docs/comparison.md


def cld_solvers() -> list[str]:
    """Return CLD's solvers on digits-cld at 50 evaluations, and gDDIM at its best with 20, without and with noise."""
    lines = load("cld-digits")["rows"]
    shown = [line for line in lines if line["grid"] == "quadratic" and line["nfe"] == 50]
    for noisy in (False, True):
        few = [line for line in lines if line["solver"] == "gddim" and line["nfe"] == 20 and bool(line["eta"]) == noisy]
        shown.append(min(few, key=lambda line: line["frechet_to_data"]))
    rows = [
        [cld_title(f"`{line['solver']}`", line), cld_grid(line), line["nfe"], shares(line)[1], frechet(line)]
        for line in shown
    ]
    return table(["`digits-cld`", "grid", "NFE", "tint matches", "Frechet distance"], rows)


def cld_title(name: str, line: dict[str, Any]) -> str:
    """Return a solver's name with its order and its noise."""
    order = f", order {line['order']}" if line["order"] else ""
    return f"{name}{order}" + (f", eta {line['eta']:g}" if line["eta"] else "")


def cld_grid(line: dict[str, Any]) -> str:
    """Return a cell with a grid, and the time at which it ends if the run chose one."""
    return f"{line['grid']}, eps {line['eps']:g}" if line["eps"] else str(line["grid"])


def frechet(line: dict[str, Any]) -> str:
    """Return a cell with the distance to the data."""
    return f"{line['frechet_to_data']:.2f}"


def cld_distances(result: dict[str, Any] | None = None) -> list[str]:
    """Return the distances of SSCS and Euler-Maruyama to the mixture, on two grids."""
    part = (result or load("cld-mixture"))["distance"]
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


def cld_ode_errors(result: dict[str, Any] | None = None) -> list[str]:
    """Return the errors of deterministic solvers to the solution of the ODE, for each number of evaluations."""
    lines = (result or load("cld-mixture"))["ode"]["rows"]
    counts, rows = list(dict.fromkeys(line["nfe"] for line in lines)), []
    for solver, order in dict.fromkeys((line["solver"], line["order"]) for line in lines):
        errors = [f"{find(lines, solver=solver, order=order, nfe=nfe)['rms']:.3f}" for nfe in counts]
        rows.append(["Euler" if solver == "em" else f"gDDIM, order {order}", *errors])
    return table(["evaluations", *map(str, counts)], rows)


def cld_orders(result: dict[str, Any] | None = None) -> list[str]:
    """Return the claimed and the measured order of each solver, and the errors at each number of steps."""
    lines = (result or load("cld-mixture"))["orders"]
    sizes, rows = list(lines[0]["errors"]), []
    for line in lines:
        name = "Euler on the flow" if line["flow"] and line["solver"] == "em" else CLD_SOLVERS[line["solver"]]
        errors = [f"{line['errors'][size]:.1e}" for size in sizes]
        rows.append([name, line["claimed"], f"{line['measured']:.2f}", *errors])
    return table(["solver", "order", "measured", *(f"error at {size} steps" for size in sizes)], rows)


def cld_digits(result: dict[str, Any] | None = None) -> list[str]:
    """Return all rows of cld-digits.json, sorted by solver, noise, order and grid."""
    result, names = result or load("cld-digits"), list(CLD_SOLVERS)

    def sort_key(line: dict[str, Any]) -> tuple[Any, ...]:
        order, eps = line["order"] or 0, line["eps"] or 0
        return names.index(line["solver"]), line["eta"] or 0, order, line["grid"], eps, line["steps"]

    rows: list[list[Any]] = [
        [cld_title(CLD_SOLVERS[line["solver"]], line), cld_grid(line), line["nfe"], frechet(line), *shares(line)]
        for line in sorted(result["rows"], key=sort_key)
    ]
    rows.append(["real, held out", "", "", halves(result), *shares(result["real_held_out"])])
    return table(["solver", "grid", "NFE", "Frechet distance", "recognised", "tint matches"], rows)


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


# docs/tuning.md


def tuned() -> list[str]:
    """Return the errors of tuned solvers, of the best other ones and of the default, on seeds not used for tuning."""
    result, rows = load("tuning"), []
    for model, by_nfe in result["models"].items():
        for nfe, measured in by_nfe.items():
            best, error = min(measured["untuned"].items(), key=lambda item: item[1])
            ours, default = measured["tuned"], measured["default"]
            cells = [f"{ours:.3f}", f"{error:.3f} ({best})", f"{1 - ours / error:.0%}", f"{default:.3f}"]
            rows.append([f"`{model}`", nfe, *cells])
    titles = ["tuned", "best other solver", "smaller by", "default solver"]
    return table(["error of the flow", "evaluations", *titles], rows)


# docs/sampling.md


def feature_caching() -> list[str]:
    """Return the speed and the Frechet distance with reused features, with the fewest skip connections."""
    result, rows = load("feature-caching"), []
    for model, lines in result["models"].items():
        for line in lines:
            if line["branches"] == 1:
                distance = f"{line['frechet']:.2f} ± {line['standard_error']:.2f}"
                cells = [f"{line['images_per_second']:.1f}", f"{line['speedup']:.2f}x", distance]
                rows.append([f"`{model}`, `{line['solver']}`", line["interval"], *cells])
    titles = ["images/s", "speed-up", "Frechet distance"]
    return table([f"50 evaluations, {result['samples']} images", "`cache_interval`", *titles], rows)

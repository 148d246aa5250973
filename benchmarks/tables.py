# SPDX-License-Identifier: Apache-2.0
"""The tables of README.md and docs/, made from benchmarks/results alone: python benchmarks/tables.py [--write]"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CLD_PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "cld.md"
MODELS = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")
SDES = {"ve": "VE", "vp": "VP", "subvp": "sub-VP", "cld": "CLD"}
CLD_SOLVERS = {"sscs": "SSCS", "em": "Euler-Maruyama", "gddim": "gDDIM"}


def load(name: str) -> dict[str, Any]:
    """Return a result of benchmarks/results."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table in markdown."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return [lines[0].replace("|  |", "| |"), *lines[1:]]


def find(rows: Iterable[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Return the first row with all of the values ``wanted``; StopIteration if there is none."""
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def device(result: dict[str, Any]) -> str:
    """Return the device of a result, which older results hold as a sentence."""
    found = result["device"]
    return found if isinstance(found, str) else f"{found['cpu']}, {found['threads']} threads"


# README.md


#: Columns of the waterfall: title, and its line in the result of `scoresde-fast bench`.
WATERFALL = (
    ("eager float32", "eager float32"),
    ("channels_last", "eager float32, channels_last"),
    ("autocast bf16", "autocast bf16, channels_last"),
    ("torch.compile", "torch.compile float32"),
    ("ours, float32", "ours: folded float32"),
    ("ours, bf16", "ours: folded bf16"),
)


def waterfall() -> list[str]:
    """Milliseconds a network evaluation of whole sampling runs, and ours against the original's and the best peer's."""
    rows = []
    for network in load("sampling-cpu")["networks"]:
        found = {line["name"]: line["ms_per_nfe"] for line in network["lines"] if "ms_per_nfe" in line}
        times = [found.get(name) for _, name in WATERFALL]
        cells = [f"{time:.{0 if time >= 100 else 1}f}" if time else "-" for time in times]
        ours = found["ours: folded float32"]
        peer = min(time for (_, name), time in zip(WATERFALL, times, strict=True) if time and name[:4] != "ours")
        factors = [f"{found['eager float32'] / ours:.2f}x", f"{peer / ours:.2f}x"]
        rows.append([f"`{network['name']}`", network["batch"], *cells, *factors])
    titles = [title for title, _ in WATERFALL]
    return table(["ms an evaluation", "batch", *titles, "against eager", "against the best peer"], rows)


def sixteen_bits() -> list[str]:
    """Images in bf16 against the same in float32."""
    result, rows = load("precision"), []
    for model in (model for model in MODELS if model in result):
        found = result[model]
        pairs = [f"{found['bf16'][key]:.1%} (float32 {found['fp32'][key]:.1%})" for key in SHARES]
        rows.append([f"`{model}`, {found['nfe']} NFE", f"{found['psnr_db']:.1f} dB", *pairs])
    return table(["bf16", "PSNR to float32", "recognised", "tint matches"], rows)


SHARES = ("recognised", "tint_matches")


def _shares(report: dict[str, Any]) -> list[str]:
    return [f"{report[share]:.1%}" for share in SHARES]


def embedded() -> list[str]:
    """Quality of the embedded models' samples beside the same measures of real digits."""

    def measures(report: dict[str, Any]) -> list[str]:
        shares = report["class_shares"]
        return [*_shares(report), f"{min(shares):.1%} to {max(shares):.1%}"]

    rows = []
    for model in MODELS:
        result = load(f"embedded-{model}")
        options = result["options"]
        pair = "" if options["corrector"] in (None, "none") else f" + {options['corrector']}"
        cells = [f"`{model}`", f"{options['solver']}{pair}, {options['steps']} steps", result["nfe"]]
        rows.append([*cells, *measures(result["generated"]), f"{result['frechet_to_data']:.2f}"])
    result = load(f"embedded-{MODELS[0]}")
    rows.append(["real, held out", "", "", *measures(result["real_held_out"]), _halves(result)])
    return table(["", "solver", "NFE", "recognised", "tint matches", "class shares", "Frechet distance"], rows)


def _halves(result: dict[str, Any]) -> str:
    return f"{result['frechet_between_halves_of_data']:.2f} (half to half)"


COMPARED = "digits-vp"
"""The model of the README's comparison of solvers."""
TOLD = 4
"""The number of solvers that are named among those tied with the best."""


def which_solver() -> list[str]:
    """The best solver within some numbers of evaluations, and those that cannot be told from it."""
    result, rows = load(f"solvers-{COMPARED}"), []
    lines = result["lines"]
    for found in result["verdict"]["by_nfe"]:
        tied = [_named(lines[place]) for place in found["tied"]]
        more = [f"{len(tied) - TOLD} more"] if len(tied) > TOLD else []
        best, told = lines[found["best"]], ", ".join([*tied[:TOLD], *more]) or "-"
        rows.append([f"{found['limit']:g} evaluations", _named(best), _distance(best), told])
    reference = find(lines, reference=True)
    rows.append([f"{reference['nfe']:g} evaluations", _named(reference), _distance(reference), "-"])
    within = f"`{COMPARED}`, {result['samples']} images: within"
    return table([within, "best", "Frechet distance", "not distinguishable from it"], rows)


def _named(line: dict[str, Any]) -> str:
    order = f"order {line['order']}" if line["order"] is not None else None
    return f"{line['name']} ({', '.join(filter(None, [order, line['grid']]))})"


def _distance(line: dict[str, Any]) -> str:
    return f"{line['quality']:.2f} ± {line['standard_error']:.2f}"


def which_solver_by_model() -> list[str]:
    """For every embedded model the best solver within 10 and 20 evaluations, and the published sampler with many."""
    rows = []
    for model in MODELS:
        result = load(f"solvers-{model}")
        lines = result["lines"]
        bests = {found["limit"]: lines[found["best"]] for found in result["verdict"]["by_nfe"]}
        shown = (bests[10], bests[20], find(lines, reference=True))
        rows.append([f"`{model}`", result["samples"], *(f"{_named(line)}: {_distance(line)}" for line in shown)])
    return table(["", "samples", "within 10 evaluations", "within 20 evaluations", "published sampler"], rows)


def cld_solvers() -> list[str]:
    """CLD's solvers on digits-cld at 50 evaluations, and gDDIM at its best with 20, by its flow and with noise."""
    lines = load("cld-digits")["rows"]
    shown = [line for line in lines if line["grid"] == "quadratic" and line["nfe"] == 50]
    for noisy in (False, True):
        few = [line for line in lines if line["solver"] == "gddim" and line["nfe"] == 20 and bool(line["eta"]) == noisy]
        shown.append(min(few, key=lambda line: line["frechet_to_data"]))
    rows = [
        [_cld_title(f"`{line['solver']}`", line), _cld_grid(line), line["nfe"], _shares(line)[1], _frechet(line)]
        for line in shown
    ]
    return table(["`digits-cld`", "grid", "NFE", "tint matches", "Frechet distance"], rows)


def _cld_title(name: str, line: dict[str, Any]) -> str:
    order = f", order {line['order']}" if line["order"] else ""
    return f"{name}{order}" + (f", eta {line['eta']:g}" if line["eta"] else "")


def _cld_grid(line: dict[str, Any]) -> str:
    return f"{line['grid']}, eps {line['eps']:g}" if line["eps"] else str(line["grid"])


def _frechet(line: dict[str, Any]) -> str:
    return f"{line['frechet_to_data']:.2f}"


def flow() -> list[str]:
    """RK45 against SciPy's loop, and what the divergence costs, on the CPU that the result names."""
    result = load("flow-cpu")
    row, estimate = result["RK45"], result["divergence"]
    nfe = row["nfe"]
    run = f"RK45 at 1e-5, `{row['model']}`, batch {row['batch']}"
    against = f"{nfe['batch']} evaluations, SciPy's {nfe['scipy']}; against `solve_ivp` around eager channels_last"
    own = f"the same by each sample's own error, {nfe['sample_mean']:.0f} evaluations in the mean"
    divergence = f"an evaluation with Hutchinson's estimate, batch {estimate['batch']}, over one without"
    rows = [
        [f"{run}, {against}", f"{row['times_scipy']:.2f}x"],
        [own, f"{row['times_scipy_by_own_error']:.2f}x"],
        [divergence, f"{estimate['times_forward']:.2f}x"],
    ]
    return table([device(result), ""], rows)


def sets() -> list[str]:
    """Large sets: how fast they are written, and how soon a finished one of a million is known to be finished."""
    result, rows = load("sets"), []
    for name, found in result["million"].items():
        rate = result["encode"]["images_per_s"].get(name)
        times = [f"{found[key]:.1f} s" for key in ("resumed_s", "grown_until_first_batch_s")]
        title = "folder of PNGs" if name == "folder" else f"`{name}`"
        rows.append([title, "-" if rate is None else f"{rate:.0f}", *times, f"{found['made_mb']:.0f} MB"])
    found_after = ["a finished million is found so after", "and grows after", "memory to make it"]
    return table(["set", "32x32 images a second", *found_after], rows)


def overhead() -> list[str]:
    """What a user waits for beside the network, on the CPU that the result names."""
    result = load("overhead")
    run, imports = result["digits_ve_64_images"], result["import_seconds"]
    title = f"64 images of `digits-ve`, predictor-corrector, {run['nfe']} NFE, start included"
    package = f"`import scoresde_fast` beside torch's own {imports['torch']:.1f} s"
    rows = [
        [title, f"{run['seconds_with_start']:.1f} s"],
        ["share of a run outside the network", f"{result['share_outside_network']:.1%}"],
        [package, f"{imports['scoresde_fast']:.2f} s"],
        ["the same with every public name", f"{imports['scoresde_fast'] + imports['public_names']:.2f} s"],
    ]
    return table([device(result), ""], rows)


#: The rows of the table of CPU kernels: title, part of the results, text in the cases' names, other side.
CPU_KERNELS = (
    ("`affine_step` with noise, 256 x 3x32x32", "steps", "affine_step", "eager"),
    ("the same", "steps", "affine_step", "inductor"),
    ("`langevin`, each sample's norms, and step", "steps", "each sample", "eager"),
    ("`langevin`, the batch's norms, and step", "steps", "the batch", "eager"),
    ("`group_norm_silu`, float32 channels_last", "group_norm_silu", "float32 channels_last", "eager"),
    ("`group_norm_silu`, bfloat16 channels_last", "group_norm_silu", "bfloat16 channels_last", "eager"),
    ("`group_norm_silu`, both", "group_norm_silu", "channels_last", "inductor"),
    ("`fir_resample`, float32 NCHW", "fir_resample", "float32 contiguous", "grouped convolution"),
    ("`fir_resample`, float32 channels_last", "fir_resample", "float32 channels_last", "grouped convolution"),
    ("`fir_resample`, bfloat16", "fir_resample", "bfloat16", "grouped convolution"),
    ("`winograd_convolution`, float32", "winograd_convolution", "", "channels_last"),
    ("the same", "winograd_convolution", "", "NCHW"),
)


def cpu_kernels() -> list[str]:
    """Our kernels against eager PyTorch and torch.compile on a CPU: the worst and the median of the shapes."""
    result, rows = load("cpu-kernels"), []
    for title, part, within, against in CPU_KERNELS:
        ratios = [case[f"against {against}"] for name, case in result[part].items() if within in name]
        rows.append([title, against, f"{min(ratios):.2f}x", f"{statistics.median(ratios):.2f}x"])
    return table([device(result), "against", "worst shape", "median"], rows)


def instructions() -> list[str]:
    """Static instructions an element on sm_90 of a solver's step, x + b s + c z and its parts."""
    lines = [line for line in load("sass")["rows"] if line["label"].startswith("affine_step, ")]
    lines = [line for line in lines if line["budget"] is not None and line["arch"] == "sm_90"]
    rows = [[line["label"], f"{line['per_element']:.1f}", f"{line['budget']:g}"] for line in lines]
    return table(["form, on sm_90", "instructions an element", "budget"], rows)


# docs/cld.md


def cld_mixture(result: dict[str, Any]) -> dict[str, list[str]]:
    """Distances, errors to the ODE and orders of cld-mixture.json, by the name that each has on the page."""
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
    """The rows of cld-digits.json, by the name that the table has on the page."""
    names = list(CLD_SOLVERS)

    def place(line: dict[str, Any]) -> tuple[Any, ...]:
        order, eps = line["order"] or 0, line["eps"] or 0
        return names.index(line["solver"]), line["eta"] or 0, order, line["grid"], eps, line["steps"]

    rows: list[list[Any]] = [
        [_cld_title(CLD_SOLVERS[line["solver"]], line), _cld_grid(line), line["nfe"], _frechet(line), *_shares(line)]
        for line in sorted(result["rows"], key=place)
    ]
    rows.append(["real, held out", "", "", _halves(result), *_shares(result["real_held_out"])])
    return {"digits": table(["solver", "grid", "NFE", "Frechet distance", "recognised", "tint matches"], rows)}


def cld_tables() -> dict[str, list[str]]:
    """Return the tables of the page by their names."""
    return {**cld_mixture(load("cld-mixture")), **cld_digits(load("cld-digits"))}


def filled(page: str, tables: dict[str, list[str]]) -> str:
    """Return the page with each table after its mark, ``<!-- table: NAME -->``, in place of the one that was there."""
    for name, lines in tables.items():
        mark = f"<!-- table: {name} -->\n"
        # No cell holds a backslash, which a replacement would read.
        page = re.sub(re.escape(mark) + r"(\|.*\n)*", mark + "".join(f"{line}\n" for line in lines), page)
    return page


# docs/conditional.md


METHODS = {"projection": "projection", "both": "projection and PiGDM", "pigdm": "PiGDM", "dps": "DPS"}
TASKS = {"inpainting": "one pixel of four", "gray": "gray", "2x": "means over 2x2"}


def _percents(line: dict[str, Any]) -> str:
    return f"{100 * line['mean']:.1f} / {100 * line['covariance']:.1f}"


def conditional_truth() -> list[str]:
    """Errors of mean and covariance of 20 000 conditional samples, in percent."""
    lines, rows = load("conditional-truth")["lines"], []
    for data in ("gaussian", "mixture"):
        for task, known in TASKS.items():
            for method, title in METHODS.items():
                found = [lines.get(f"{data}/{method}/{task}/{sde}") for sde in SDES]
                rows.append([data, known, title, *(_percents(line) if line else "-" for line in found)])
    return table(["data", "known", "by", *SDES.values()], rows)


def conditional_bias() -> list[str]:
    """The exact bias of projection on Gaussian data, in percent."""
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
    """What becomes of the digits under conditions."""
    result, rows = load("conditional-digits"), []
    filled_in, coloured = "lower half filled in, of the original's class", "coloured with the hue of their class"
    lines = [("of the asked class, guided", "classes", "asked_class", None)]
    lines += [("the same without guidance", "classes", "asked_class_without", None)]
    for title, part, key in ((filled_in, "halves", "class_of_original"), (coloured, "colours", "hue_of_class")):
        lines.append((f"{title}: projection", part, key, "projection"))
        lines.append(("the same with corrector steps", part, key, "corrected"))
        lines.append(('the same, `method="pigdm"`', part, key, "pigdm"))
    for title, part, key, method in lines:
        found = [result[part][name] if method is None else result[part][name][method] for name in MODELS]
        rows.append([title, *(f"{shares[key]:.1%}" for shares in found)])
    return table([f"of {result['count']} digits", *(f"`{name}`" for name in MODELS)], rows)


def conditional_restored() -> list[str]:
    """Root mean squared errors of restored digits, by the models that were measured."""
    result = load("conditional-digits")["restore"]
    models = [name for name in MODELS if name in result]
    errors = {name: result[name]["rmse_pigdm"] for name in models}
    rows = [[task, *(f"{errors[name][task]:.3f}" for name in models)] for task in errors[models[0]]]
    return table([f"measured, with noise {result[models[0]]['noise']}", *(f"`{name}`" for name in models)], rows)


def conditional_cost() -> list[str]:
    """The cost of a step with a condition, in steps without one."""
    result, rows = load("conditional-digits")["cost"], []
    for name in MODELS:
        ratios = [f"{result[name]['steps_of_none'][kind]:.2f}" for kind in ("classes", "pigdm", "dps")]
        rows.append([f"`{name}`", f"{result[name]['projection_share']:.1%}", *ratios])
    return table(["a step, in steps without", "projection adds", "classes", "PiGDM", "DPS"], rows)


# docs/portability.md


def processors() -> list[str]:
    """For every processor, the tests under each choice of instructions."""
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
    """The tests in every environment of `make matrix`."""
    libraries = ("python", "torch", "triton", "numpy", "scipy", "setuptools")
    rows = [
        [row["cpu"], *(row["versions"][name] for name in libraries), row["extension"], row["passed"], row["failed"]]
        for row in load("matrix")["rows"]
    ]
    return table(["processor", *libraries, "extension", "passed", "failed"], rows)


def installed() -> list[str]:
    """How fast a plain install is beside the checkout's environment."""
    result = load("install-speed")

    def side(name: str) -> str:
        versions = result[name]["device"]["versions"]
        return f"{result[name]['seconds']:.2f} s (Python {versions['python']}, torch {versions['torch']})"

    ratio = f"{result['installed_over_checkout']:.2f} times as long"
    return [f"{side('installed')}; in the checkout's `.venv` {side('checkout')}: {ratio}"]


# docs/performance.md, and a visit to a GPU


@dataclass(frozen=True)
class Target:
    """A figure of a visit to a GPU.

    Attributes:
        what: how it is measured.
        floor, goal: its least acceptable and its wanted value; of costs, the most and the wanted one.
    """

    what: str
    floor: float
    goal: float


TARGETS = {
    "norm bandwidth": Target("GroupNorm + SiLU in bf16, the worst shape: share of the copy bandwidth", 0.85, 0.93),
    "norm against inductor": Target("the same against torch.compile", 1.2, 1.5),
    "step bandwidth": Target("a solver's step on 256 MB of state: share of the copy bandwidth", 0.85, 0.93),
    "step against eager": Target("the same against eager PyTorch", 3, 4.5),
    "step against tl.randn": Target("the same against a Triton kernel with tl.randn", 1.8, 2.5),
    "Langevin bytes": Target("bytes that the Langevin corrector moves, over the least", 1.5, 1.05),
    "outside the network": Target("share of a sampling run that is not the network", 0.02, 0.005),
    "matmul share": Target("the network's operations a second: share of the fastest matrix product", 0.55, 0.7),
    "against eager TF32": Target("images a second against eager PyTorch in TF32, each at its best batch", 4, 5.5),
    "against eager float32": Target("the same against strict float32", 9, 14),
    "against max-autotune": Target("images a second against torch.compile(max-autotune) in bf16", 1.3, 1.8),
    "latency against eager TF32": Target("images a second at small batches against eager TF32", 8, 12),
    "latency against reduce-overhead": Target("the same against torch.compile(reduce-overhead) in bf16", 1.3, 1.7),
    "wall over replays": Target("wall-clock time of a run over that of its CUDA graphs", 1.03, 1.005),
    "attention against eager": Target("the attention block against four projections and SDPA", 1.3, 2),
    "RK45 against SciPy": Target("the probability flow by rk45 against SciPy's loop, the same flags", 6, 12),
    "divergence": Target("an evaluation with its divergence over one without", 2.6, 2.1),
}


def targets() -> list[str]:
    """The targets by name."""
    rows = [[name, target.what, f"{target.floor:g}", f"{target.goal:g}"] for name, target in TARGETS.items()]
    return table(["target", "what is measured", "floor", "goal"], rows)


def gpu(result: dict[str, Any]) -> list[str]:
    """The targets that a visit measured, with floor and goal, and the failed checks that put a figure in doubt."""
    rows = []
    for name, target in TARGETS.items():
        for item in result["items"].values():
            doubt = f"in doubt: {', '.join(item['doubts'])} failed" if item.get("doubts") else ""
            for figure, value in item.get("figures", {}).items():
                if figure == name or figure.startswith(f"{name}, "):
                    rows.append([figure, f"{value:.3g}", f"{target.floor:g}", f"{target.goal:g}", doubt])
    versions = result["items"]["device"]["figures"]["versions"]
    return table([f"{result['device']}, {versions}", "measured", "floor", "goal", ""], rows)


def gpu_results() -> list[Path]:
    """Return the files of visits to GPUs, the latest last."""
    return sorted(RESULTS.glob("*-20[0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"), key=lambda path: path.stem[-10:])


PAGES: dict[str, tuple[Callable[[], list[str]], ...]] = {
    "README.md": (
        waterfall, sixteen_bits, embedded, which_solver, which_solver_by_model, sets, cld_solvers, flow, overhead,
        cpu_kernels, instructions,
    ),
    "docs/conditional.md": (
        conditional_truth, conditional_bias, conditional_digits, conditional_restored, conditional_cost,
    ),
    "docs/portability.md": (processors, versions, installed),
    "docs/performance.md": (targets,),
}  # fmt: skip
"""The tables of each page; those of docs/cld.md, which have marks there, are `cld_tables`."""


def main() -> None:
    """Print the tables of every page, and of the latest visit to a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables of docs/cld.md into the page instead")
    if parser.parse_args().write:
        CLD_PAGE.write_text(filled(CLD_PAGE.read_text(), cld_tables()))
        return
    found = {page: [make() for make in tables] for page, tables in PAGES.items()}
    found["docs/cld.md"] = list(cld_tables().values())
    found |= {path.name: [gpu(load(path.stem))] for path in gpu_results()[-1:]}
    for page, tables in found.items():
        print(page, *("\n".join(lines) for lines in tables), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()

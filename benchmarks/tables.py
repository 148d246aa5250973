# SPDX-License-Identifier: Apache-2.0
"""The tables of the README, made from benchmarks/results alone: python benchmarks/tables.py"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from targets import TARGETS

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def embedded() -> list[str]:
    """Quality of the embedded models' samples beside the same measures of real digits."""
    rows = [
        "| | solver | NFE | recognised | tint matches | class shares | Frechet distance |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in MODELS:
        result = load(f"embedded-{model}")
        options, made = result["options"], result["generated"]
        pair = "" if options["corrector"] in (None, "none") else f" + {options['corrector']}"
        cells = [f"`{model}`", f"{options['solver']}{pair}, {options['steps']} steps", str(result["nfe"])]
        rows.append(table_row([*cells, *_measures(made), f"{result['frechet_to_data']:.2f}"]))
    result = load(f"embedded-{MODELS[0]}")
    halves = f"{result['frechet_between_halves_of_data']:.2f} (half to half)"
    rows.append(table_row(["real, held out", "", "", *_measures(result["real_held_out"]), halves]))
    return rows


COMPARED = "digits-vp"
"""Whose comparison of solvers the README shows."""
TOLD = 4
"""How many of the solvers that are tied with the best are named."""


def which_solver() -> list[str]:
    """The best solver within some numbers of evaluations, and those that cannot be told from it."""
    result = load(f"solvers-{COMPARED}")
    lines = result["lines"]
    head = (
        f"| `{COMPARED}`, {result['samples']} images: within | best | Frechet distance | not distinguishable from it |"
    )
    rows = [head, "| --- | --- | --- | --- |"]
    for found in result["verdict"]["by_nfe"]:
        tied = [_named(lines[place]) for place in found["tied"]]
        more = [f"{len(tied) - TOLD} more"] if len(tied) > TOLD else []
        best = lines[found["best"]]
        told = ", ".join([*tied[:TOLD], *more]) or "-"
        rows.append(table_row([f"{found['limit']:g} evaluations", _named(best), _distance(best), told]))
    reference = next(line for line in lines if line["reference"])
    return [*rows, table_row([f"{reference['nfe']:g} evaluations", _named(reference), _distance(reference), "-"])]


def _named(line: dict[str, Any]) -> str:
    order = f"order {line['order']}" if line["order"] is not None else None
    return f"{line['name']} ({', '.join(filter(None, [order, line['grid']]))})"


def _distance(line: dict[str, Any]) -> str:
    return f"{line['quality']:.2f} ± {line['standard_error']:.2f}"


def which_solver_by_model() -> list[str]:
    """For every embedded model the best solver within 10 and 20 evaluations, and the published sampler with many."""
    head = "| | samples | within 10 evaluations | within 20 evaluations | published sampler |"
    rows = [head, "| --- | --- | --- | --- | --- |"]
    for model in MODELS:
        result = load(f"solvers-{model}")
        lines = result["lines"]
        bests = {found["limit"]: lines[found["best"]] for found in result["verdict"]["by_nfe"]}
        reference = next(line for line in lines if line["reference"])
        cells = [f"{_named(line)}: {_distance(line)}" for line in (bests[10], bests[20], reference)]
        rows.append(table_row([f"`{model}`", str(result["samples"]), *cells]))
    return rows


def cld_solvers() -> list[str]:
    """CLD's solvers on digits-cld at 50 evaluations, and gDDIM at its best with 20, by its flow and with noise."""
    result = load("cld-digits")
    noisy = [row for row in result["rows"] if row["grid"] == "quadratic" and row["nfe"] == 50]
    few = [row for row in result["rows"] if row["solver"] == "gddim" and row["nfe"] == 20]
    best = [
        min((row for row in few if bool(row["eta"]) == noisy), key=lambda row: row["frechet_to_data"])
        for noisy in (False, True)
    ]
    rows = ["| `digits-cld` | grid | NFE | tint matches | Frechet distance |", "| --- | --- | --- | --- | --- |"]
    for row in (*noisy, *best):
        name = f"`{row['solver']}`" + (f", order {row['order']}" if row["order"] else "")
        name += f", eta {row['eta']:g}" if row["eta"] else ""
        grid = row["grid"] + (f", eps {row['eps']:g}" if row["eps"] else "")
        rows.append(
            table_row([name, grid, str(row["nfe"]), f"{row['tint_matches']:.1%}", f"{row['frechet_to_data']:.2f}"])
        )
    return rows


def flow() -> list[str]:
    """RK45 against SciPy's loop, and what the divergence costs, on the CPU that the result names."""
    result = load("flow-cpu")
    row, estimate = result["RK45"], result["divergence"]
    nfe = row["nfe"]
    run = f"RK45 at 1e-5, `{row['model']}`, batch {row['batch']}"
    against = f"{nfe['batch']} evaluations, SciPy's {nfe['scipy']}; against `solve_ivp` around eager channels_last"
    own = f"the same by each sample's own error, {nfe['sample_mean']:.0f} evaluations in the mean"
    divergence = f"an evaluation with Hutchinson's estimate, batch {estimate['batch']}, over one without"
    return [
        f"| {device(result)} | |",
        "| --- | --- |",
        f"| {run}, {against} | {row['times_scipy']:.2f}x |",
        f"| {own} | {row['times_scipy_by_own_error']:.2f}x |",
        f"| {divergence} | {estimate['times_forward']:.2f}x |",
    ]


def sets() -> list[str]:
    """Large sets: how fast they are written, and how soon a finished one of a million is known to be finished."""
    result = load("sets")
    encode, million = result["encode"], result["million"]
    head = "32x32 images a second | a finished million is found so after | and grows after | memory to make it"
    rows = [f"| set | {head} |", "| --- | --- | --- | --- | --- |"]
    for name, found in million.items():
        rate = encode["images_per_s"].get(name)
        times = [f"{found[key]:.1f} s" for key in ("resumed_s", "grown_until_first_batch_s")]
        written = "-" if rate is None else f"{rate:.0f}"
        title = "folder of PNGs" if name == "folder" else f"`{name}`"
        rows.append(table_row([title, written, *times, f"{found['made_mb']:.0f} MB"]))
    return rows


def overhead() -> list[str]:
    """What a user waits for beside the network, on the CPU that the result names."""
    result = load("overhead")
    run, imports = result["digits_ve_64_images"], result["import_seconds"]
    added = imports["scoresde_fast"] + imports["public_names"]
    seconds = run["seconds_with_start"]
    return [
        f"| {device(result)} | |",
        "| --- | --- |",
        f"| 64 images of `digits-ve`, predictor-corrector, {run['nfe']} NFE, start included | {seconds:.1f} s |",
        f"| share of a run outside the network | {result['share_outside_network']:.1%} |",
        f"| `import scoresde_fast` beside torch's own {imports['torch']:.1f} s | {imports['scoresde_fast']:.2f} s |",
        f"| the same with every public name | {added:.2f} s |",
    ]


#: The rows of the table of CPU kernels: title, part of the results, what the cases' names hold, against what.
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
    result = load("cpu-kernels")
    rows = [f"| {device(result)} | against | worst shape | median |", "| --- | --- | --- | --- |"]
    for title, part, within, against in CPU_KERNELS:
        ratios = [case[f"against {against}"] for name, case in result[part].items() if within in name]
        rows.append(table_row([title, against, f"{min(ratios):.2f}x", f"{statistics.median(ratios):.2f}x"]))
    return rows


#: Columns of the waterfall: title, and the line of `scoresde-fast bench` that it shows.
LINES = (
    ("eager float32", "eager float32"),
    ("channels_last", "eager float32, channels_last"),
    ("autocast bf16", "autocast bf16, channels_last"),
    ("torch.compile", "torch.compile float32"),
    ("ours, float32", "ours: folded float32"),
    ("ours, bf16", "ours: folded bf16"),
)


def waterfall() -> list[str]:
    """Milliseconds a network evaluation of whole sampling runs, and ours against the original's and the best peer's."""
    result = load("sampling-cpu")
    titles = ["ms an evaluation", "batch", *(title for title, _ in LINES), "against eager", "against the best peer"]
    rows = [table_row(titles), table_row(["---"] * len(titles))]
    for network in result["networks"]:
        found = {line["name"]: line["ms_per_nfe"] for line in network["lines"] if "ms_per_nfe" in line}
        times = [found.get(name) for _, name in LINES]
        cells = [f"{time:.{0 if time >= 100 else 1}f}" if time else "-" for time in times]
        ours = found["ours: folded float32"]
        peer = min(time for (_, name), time in zip(LINES, times, strict=True) if time and not name.startswith("ours"))
        factors = [f"{found['eager float32'] / ours:.2f}x", f"{peer / ours:.2f}x"]
        rows.append(table_row([f"`{network['name']}`", str(network["batch"]), *cells, *factors]))
    return rows


def sixteen_bits() -> list[str]:
    """Images in bf16 against the same in float32."""
    result = load("precision")
    rows = ["| bf16 | PSNR to float32 | recognised | tint matches |", "| --- | --- | --- | --- |"]
    for model in (model for model in MODELS if model in result):
        found = result[model]
        pairs = [
            f"{found['bf16'][key]:.1%} (float32 {found['fp32'][key]:.1%})" for key in ("recognised", "tint_matches")
        ]
        rows.append(table_row([f"`{model}`, {found['nfe']} NFE", f"{found['psnr_db']:.1f} dB", *pairs]))
    return rows


def instructions() -> list[str]:
    """Static instructions an element on sm_90 of a solver's step, x + b s + c z and its parts."""
    step = [row for row in load("sass")["rows"] if row["label"].startswith("affine_step, ")]
    found = [row for row in step if row["budget"] is not None and row["arch"] == "sm_90"]
    rows = ["| form, on sm_90 | instructions an element | budget |", "| --- | --- | --- |"]
    return rows + [table_row([row["label"], f"{row['per_element']:.1f}", f"{row['budget']:g}"]) for row in found]


def gpu_results() -> list[Path]:
    """The files of visits to GPUs, the latest last."""
    return sorted(RESULTS.glob("*-20[0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"), key=lambda path: path.stem[-10:])


def gpu(result: dict[str, Any]) -> list[str]:
    """The targets that a visit measured, with floor and goal, and what puts a figure in doubt."""
    versions = result["items"]["device"]["figures"]["versions"]
    rows = [table_row([f"{result['device']}, {versions}", "measured", "floor", "goal", ""]), table_row(["---"] * 5)]
    for name, target in TARGETS.items():
        for item in result["items"].values():
            for figure, value in item.get("figures", {}).items():
                if figure == name or figure.startswith(f"{name}, "):
                    doubts = item.get("doubts", [])
                    doubt = f"in doubt: {', '.join(doubts)} failed" if doubts else ""
                    rows.append(table_row([figure, f"{value:.3g}", f"{target.floor:g}", f"{target.goal:g}", doubt]))
    return rows


def targets() -> list[str]:
    """The targets by name; in docs/performance.md."""
    rows = [table_row(["target", "what is measured", "floor", "goal"]), table_row(["---"] * 4)]
    return rows + [
        table_row([name, target.what, f"{target.floor:g}", f"{target.goal:g}"]) for name, target in TARGETS.items()
    ]


def device(result: dict[str, Any]) -> str:
    """The device of a result, of earlier ones in words already."""
    found = result["device"]
    return found if isinstance(found, str) else f"{found['cpu']}, {found['threads']} threads"


def _measures(report: dict[str, Any]) -> list[str]:
    shares = report["class_shares"]
    return [f"{report['recognised']:.1%}", f"{report['tint_matches']:.1%}", f"{min(shares):.1%} to {max(shares):.1%}"]


def table_row(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    for table in (waterfall(), sixteen_bits(), embedded(), overhead(), cpu_kernels(), instructions()):
        print("\n".join(table), end="\n\n")
    for path in gpu_results()[-1:]:
        print("\n".join(gpu(load(path.stem))))

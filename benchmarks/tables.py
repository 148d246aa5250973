# SPDX-License-Identifier: Apache-2.0
"""The tables of README.md and of a visit to a GPU, from benchmarks/results alone: python benchmarks/tables.py"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")


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


def shares(report: dict[str, Any]) -> list[str]:
    """Return the cells of `SHARES`."""
    return [f"{report[share]:.1%}" for share in SHARES]


def embedded() -> list[str]:
    """Quality of the embedded models' samples beside the same measures of real digits."""

    def measures(report: dict[str, Any]) -> list[str]:
        classes = report["class_shares"]
        return [*shares(report), f"{min(classes):.1%} to {max(classes):.1%}"]

    rows = []
    for model in MODELS:
        result = load(f"embedded-{model}")
        options = result["options"]
        pair = "" if options["corrector"] in (None, "none") else f" + {options['corrector']}"
        cells = [f"`{model}`", f"{options['solver']}{pair}, {options['steps']} steps", result["nfe"]]
        rows.append([*cells, *measures(result["generated"]), f"{result['frechet_to_data']:.2f}"])
    result = load(f"embedded-{MODELS[0]}")
    rows.append(["real, held out", "", "", *measures(result["real_held_out"]), halves(result)])
    return table(["", "solver", "NFE", "recognised", "tint matches", "class shares", "Frechet distance"], rows)


def halves(result: dict[str, Any]) -> str:
    """Return the cell of the distance between halves of the data."""
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
        [cld_title(f"`{line['solver']}`", line), cld_grid(line), line["nfe"], shares(line)[1], frechet(line)]
        for line in shown
    ]
    return table(["`digits-cld`", "grid", "NFE", "tint matches", "Frechet distance"], rows)


def cld_title(name: str, line: dict[str, Any]) -> str:
    """Return a solver's name with its order and its noise."""
    order = f", order {line['order']}" if line["order"] else ""
    return f"{name}{order}" + (f", eta {line['eta']:g}" if line["eta"] else "")


def cld_grid(line: dict[str, Any]) -> str:
    """Return the cell of a grid and its last time."""
    return f"{line['grid']}, eps {line['eps']:g}" if line["eps"] else str(line["grid"])


def frechet(line: dict[str, Any]) -> str:
    """Return the cell of the distance to the data."""
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
    """Large sets: write speed, and the time to detect that a million images are finished or to add more."""
    result, rows = load("sets"), []
    for name, found in result["million"].items():
        rate = result["encode"]["images_per_s"].get(name)
        times = [f"{found[key]:.1f} s" for key in ("resumed_s", "grown_until_first_batch_s")]
        title = "folder of PNGs" if name == "folder" else f"`{name}`"
        rows.append([title, "-" if rate is None else f"{rate:.0f}", *times, f"{found['made_mb']:.0f} MB"])
    million = ["time to detect a finished million", "time to the first new batch", "memory to write it"]
    return table(["set", "32x32 images/s", *million], rows)


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


README = (
    waterfall, sixteen_bits, embedded, which_solver, which_solver_by_model, sets, cld_solvers, flow, overhead,
    cpu_kernels, instructions,
)  # fmt: skip
"""The tables of README.md, in its order."""


def main() -> None:
    """Print the tables of README.md, the targets, and those of the latest visit."""
    tables = [make() for make in (*README, targets)]
    tables += [gpu(load(path.stem)) for path in gpu_results()[-1:]]
    print(*("\n".join(lines) for lines in tables), sep="\n\n")


if __name__ == "__main__":
    main()

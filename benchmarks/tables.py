# SPDX-License-Identifier: Apache-2.0
"""All tables of README.md and docs/, and that of a GPU visit, from benchmarks/results alone.

python -m benchmarks.tables          prints them
python -m benchmarks.tables --write  updates those that follow a mark ``<!-- table: FUNCTION -->`` on their page

`PAGES` lists the function that makes each table; the longer ones are in `benchmarks.study_tables`.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import study_tables
from benchmarks.table_cells import MODELS, RESULTS, SHARES, device, find, halves, load, shares, table

ROOT = Path(__file__).resolve().parents[1]

WATERFALL = (
    ("eager float32", "eager float32"),
    ("channels_last", "eager float32, channels_last"),
    ("autocast bf16", "autocast bf16, channels_last"),
    ("torch.compile", "torch.compile float32"),
    ("ours, float32", "ours: folded float32"),
    ("ours, bf16", "ours: folded bf16"),
)
"""Columns of the waterfall: title, and name of the variant of `scoresde-fast bench`."""


def waterfall() -> list[str]:
    """Return milliseconds per network evaluation of each variant, and the speed-ups against eager and the best peer."""
    rows = []
    for network in load("sampling-cpu")["networks"]:
        ms_per_nfe = {line["name"]: line["ms_per_nfe"] for line in network["lines"] if "ms_per_nfe" in line}
        times = [ms_per_nfe.get(name) for _, name in WATERFALL]
        cells = [f"{time:.{0 if time >= 100 else 1}f}" if time else "-" for time in times]
        ours = ms_per_nfe["ours: folded float32"]
        peers = [time for (_, name), time in zip(WATERFALL, times, strict=True) if not name.startswith("ours")]
        best_peer = min(time for time in peers if time)
        factors = [f"{ms_per_nfe['eager float32'] / ours:.2f}x", f"{best_peer / ours:.2f}x"]
        rows.append([f"`{network['name']}`", network["batch"], *cells, *factors])
    titles = [title for title, _ in WATERFALL]
    return table(["ms an evaluation", "batch", *titles, "against eager", "against the best peer"], rows)


def sixteen_bits() -> list[str]:
    """Return the quality of images in bf16 against float32."""
    result, rows = load("precision"), []
    for model in (model for model in MODELS if model in result):
        measured = result[model]
        pairs = [f"{measured['bf16'][key]:.1%} (float32 {measured['fp32'][key]:.1%})" for key in SHARES]
        rows.append([f"`{model}`, {measured['nfe']} NFE", f"{measured['psnr_db']:.1f} dB", *pairs])
    return table(["bf16", "PSNR to float32", "recognised", "tint matches"], rows)


def embedded() -> list[str]:
    """Return the quality of the embedded models' samples, and of real digits."""

    def measures(report: dict[str, Any]) -> list[str]:
        classes = report["class_shares"]
        return [*shares(report), f"{min(classes):.1%} to {max(classes):.1%}"]

    rows = []
    for model in MODELS:
        result = load(f"embedded-{model}")
        options = result["options"]
        corrector = "" if options["corrector"] in (None, "none") else f" + {options['corrector']}"
        cells = [f"`{model}`", f"{options['solver']}{corrector}, {options['steps']} steps", result["nfe"]]
        rows.append([*cells, *measures(result["generated"]), f"{result['frechet_to_data']:.2f}"])
    result = load(f"embedded-{MODELS[0]}")
    rows.append(["real, held out", "", "", *measures(result["real_held_out"]), halves(result)])
    return table(["", "solver", "NFE", "recognised", "tint matches", "class shares", "Frechet distance"], rows)


COMPARED = "digits-vp"
"""The model of the table `which_solver`."""
MAX_NAMED_TIES = 4
"""Maximum number of tied solvers that are named."""


def which_solver() -> list[str]:
    """Return the best solver within each budget of evaluations, and the solvers tied with it."""
    result, rows = load(f"solvers-{COMPARED}"), []
    lines = result["lines"]
    for ranked in result["verdict"]["by_nfe"]:
        tied = [_label(lines[index]) for index in ranked["tied"]]
        if len(tied) > MAX_NAMED_TIES:
            tied = [*tied[:MAX_NAMED_TIES], f"{len(tied) - MAX_NAMED_TIES} more"]
        best = lines[ranked["best"]]
        rows.append([f"{ranked['limit']:g} evaluations", _label(best), _distance(best), ", ".join(tied) or "-"])
    reference = find(lines, reference=True)
    rows.append([f"{reference['nfe']:g} evaluations", _label(reference), _distance(reference), "-"])
    within = f"`{COMPARED}`, {result['samples']} images: within"
    return table([within, "best", "Frechet distance", "tied with it"], rows)


def _label(line: dict[str, Any]) -> str:
    order = f"order {line['order']}" if line["order"] is not None else None
    return f"{line['name']} ({', '.join(filter(None, [order, line['grid']]))})"


def _distance(line: dict[str, Any]) -> str:
    return f"{line['quality']:.2f} ± {line['standard_error']:.2f}"


def which_solver_by_model() -> list[str]:
    """Return for each embedded model the best solver within 10 and 20 evaluations, and the published sampler."""
    rows = []
    for model in MODELS:
        result = load(f"solvers-{model}")
        lines = result["lines"]
        bests = {ranked["limit"]: lines[ranked["best"]] for ranked in result["verdict"]["by_nfe"]}
        shown = (bests[10], bests[20], find(lines, reference=True))
        rows.append([f"`{model}`", result["samples"], *(f"{_label(line)}: {_distance(line)}" for line in shown)])
    return table(["", "samples", "within 10 evaluations", "within 20 evaluations", "published sampler"], rows)


def flow() -> list[str]:
    """Return the speed of RK45 against SciPy, and the cost of the divergence."""
    result = load("flow-cpu")
    row, estimate = result["RK45"], result["divergence"]
    nfe = row["nfe"]
    run = f"RK45 at 1e-5, `{row['model']}`, batch {row['batch']}"
    against = f"{nfe['batch']} evaluations, SciPy's {nfe['scipy']}; against `solve_ivp` around eager channels_last"
    by_sample = f"the same with the error of each sample, {nfe['sample_mean']:.0f} evaluations on average"
    divergence = f"time of an evaluation with Hutchinson's estimate, batch {estimate['batch']}, over one without"
    rows = [
        [f"{run}, {against}", f"{row['times_scipy']:.2f}x"],
        [by_sample, f"{row['times_scipy_by_own_error']:.2f}x"],
        [divergence, f"{estimate['times_forward']:.2f}x"],
    ]
    return table([device(result), ""], rows)


def sets() -> list[str]:
    """Return the speed of writing large sets, and the time and memory of sets of a million images."""
    result, rows = load("sets"), []
    for name, measured in result["million"].items():
        rate = result["encode"]["images_per_s"].get(name)
        times = [f"{measured[key]:.1f} s" for key in ("resumed_s", "grown_until_first_batch_s")]
        title = "folder of PNGs" if name == "folder" else f"`{name}`"
        rows.append([title, "-" if rate is None else f"{rate:.0f}", *times, f"{measured['made_mb']:.0f} MB"])
    million = ["time to detect a finished million", "time to the first new batch", "memory to write it"]
    return table(["set", "32x32 images/s", *million], rows)


def overhead() -> list[str]:
    """Return the times of a run, of the import, and outside the network."""
    result = load("overhead")
    run, imports = result["digits_ve_64_images"], result["import_seconds"]
    title = f"64 images of `digits-ve`, predictor-corrector, {run['nfe']} NFE, including start-up"
    import_title = f"`import scoresde_fast`, in addition to {imports['torch']:.1f} s for torch"
    rows = [
        [title, f"{run['seconds_with_start']:.1f} s"],
        ["share of a run's time outside the network", f"{result['share_outside_network']:.1%}"],
        [import_title, f"{imports['scoresde_fast']:.2f} s"],
        ["the same with every public name", f"{imports['scoresde_fast'] + imports['public_names']:.2f} s"],
    ]
    return table([device(result), ""], rows)


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
"""Rows of the table of CPU kernels: title, part of the results, substring of the cases' names, and alternative."""


def cpu_kernels() -> list[str]:
    """Return the speed-up of our CPU kernels against alternatives, for the worst shape and the median of the shapes."""
    result, rows = load("cpu-kernels"), []
    for title, part, substring, against in CPU_KERNELS:
        ratios = [case[f"against {against}"] for name, case in result[part].items() if substring in name]
        rows.append([title, against, f"{min(ratios):.2f}x", f"{statistics.median(ratios):.2f}x"])
    return table([device(result), "against", "worst shape", "median"], rows)


def instructions() -> list[str]:
    """Return the instructions an element of a solver's step x + b s + c z and of its parts, compiled for sm_90."""
    lines = [line for line in load("sass")["rows"] if line["label"].startswith("affine_step, ")]
    lines = [line for line in lines if line["budget"] is not None and line["arch"] == "sm_90"]
    rows = [[line["label"], f"{line['per_element']:.1f}", f"{line['budget']:g}"] for line in lines]
    return table(["form, on sm_90", "instructions an element", "budget"], rows)


@dataclass(frozen=True)
class Target:
    """A target for a figure of a GPU visit.

    Attributes:
        what: the measured quantity.
        floor, goal: the worst acceptable value and the desired one.
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
    "Langevin bytes": Target("bytes that the Langevin corrector moves, over the minimum", 1.5, 1.05),
    "outside the network": Target("share of a sampling run's time outside the network", 0.02, 0.005),
    "matmul share": Target("the network's operations a second: share of the matmul peak", 0.55, 0.7),
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
    """Return the targets by name."""
    rows = [[name, target.what, f"{target.floor:g}", f"{target.goal:g}"] for name, target in TARGETS.items()]
    return table(["target", "what is measured", "floor", "goal"], rows)


def gpu(result: dict[str, Any]) -> list[str]:
    """Return the measured figures of a visit with floor and goal, and the failed checks that put them in doubt."""
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
    """Return the files of GPU visits, the latest last."""
    return sorted(RESULTS.glob("*-20[0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"), key=lambda path: path.stem[-10:])


def own_network() -> list[str]:
    """Return the time of a run with a network of one's own against its bare evaluations."""
    result = load("own-network")
    rows = [
        [
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['bare_seconds']:.2f} s",
            f"{row['sampler_seconds']:.2f} s",
            f"{row['ratio']:.2f}",
        ]
        for row in result["rows"]
    ]
    return table(
        [f"weights of a U-Net ({device(result)})", "10 bare evaluations", "`Sampler.sample`, 10 steps", "ratio"], rows
    )


PAGES: dict[str, tuple[Callable[[], list[str]], ...]] = {
    "README.md": (waterfall,),
    "docs/cld.md": (
        study_tables.cld_distances, study_tables.cld_ode_errors, study_tables.cld_orders, study_tables.cld_digits,
    ),
    "docs/comparison.md": (which_solver, which_solver_by_model, study_tables.cld_solvers),
    "docs/conditional.md": (
        study_tables.conditional_truth, study_tables.conditional_bias, study_tables.conditional_digits,
        study_tables.conditional_restored, study_tables.conditional_cost,
    ),
    "docs/kernels.md": (cpu_kernels, instructions),
    "docs/models.md": (embedded,),
    "docs/own-networks.md": (own_network,),
    "docs/performance.md": (overhead, flow, targets),
    "docs/portability.md": (study_tables.processors, study_tables.versions, study_tables.installed),
    "docs/sampling.md": (sixteen_bits, study_tables.feature_caching),
    "docs/sets.md": (sets,),
    "docs/tuning.md": (study_tables.tuned,),
}  # fmt: skip
"""The functions that make the tables of each page, in the order of the page."""


def mark(make: Callable[[], list[str]]) -> str:
    """Return the line that marks the place of a function's table on a page."""
    return f"<!-- table: {make.__name__} -->\n"


def updated(page: str) -> str:
    """Return the text of a page with its marked tables replaced by those from the results."""
    text = (ROOT / page).read_text()
    for make in PAGES[page]:
        # re.sub would interpret backslashes, but no cell contains one.
        lines = "".join(f"{line}\n" for line in make())
        text = re.sub(re.escape(mark(make)) + r"(\|.*\n)*", mark(make) + lines, text)
    return text


def main() -> None:
    """Print the tables of each page and that of the latest GPU visit, or update the marked ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update the marked tables instead of printing all")
    if parser.parse_args().write:
        for page in PAGES:
            (ROOT / page).write_text(updated(page))
        return
    for page, tables in PAGES.items():
        print(page, *("\n".join(make()) for make in tables), sep="\n\n", end="\n\n")
    for path in gpu_results()[-1:]:
        print("\n".join(gpu(load(path.stem))))


if __name__ == "__main__":
    main()

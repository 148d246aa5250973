# SPDX-License-Identifier: Apache-2.0
"""Every check and every figure that needs a GPU: python benchmarks/gpu.py [--list] [--only PART ...]

Builds the extension from this source tree, checks every operation on every backend against float64 and the noise
against the CPU's, then measures.  Figures of an operation whose check failed are not taken.  Writes
benchmarks/results/DEVICE-DATE.json after each part.  Exit status: 0 all passed, 1 a check failed, 3 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# name -> (what it does, the checks that must have passed)
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "noise": ("noise words and normals against the CPU's; 10^9 draws are normal", ()),
    "steps": ("affine_step, affine_step_pair, langevin_*, hutchinson_dot against float64", ()),
    "group_norm_silu": ("group_norm_silu against float64, all shapes of NCSN++, DDPM++ and FFHQ-256", ()),
    "fir_resample": ("fir_resample against float64, all shapes", ()),
    "group_norm_attention": ("the attention block against float64", ()),
    "convolution": ("convolution against float64, all shapes of NCSN++, DDPM++ and FFHQ-256", ()),
    "conditions": ("the inference network's gradient against the plain one's; guided runs, captured and not", ()),
    "rows 3-5": ("step and Langevin kernels: share of copy bandwidth, against eager and tl.randn", ("noise", "steps")),
    "rows 1-2": ("GroupNorm + SiLU: share of copy bandwidth, against torch.compile", ("group_norm_silu",)),
    "row 12": ("the attention block against four projections and SDPA", ("group_norm_attention",)),
    "convolutions": ("cuDNN, the compiler's templates and our tiles, and what fills FASTER_FUSED", ("convolution",)),
}


def build() -> str:
    """Builds the extension with CUDA into the package; what was done, or why it could not be."""
    folder = ROOT / "build" / "gpu"
    options = {
        "SSF_TESTS": "OFF",
        "SSF_CUDA": "ON",
        "SSF_TORCH_DIR": Path(find_spec("torch").origin).parent,
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": ROOT / "scoresde_fast",
        "CMAKE_CUDA_ARCHITECTURES": "{}{}-real".format(*torch.cuda.get_device_capability()),
    }
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        folder,
        "-GNinja",
        *(f"-D{name}={value}" for name, value in options.items()),
    ]
    for command in (configure, ["cmake", "--build", folder, "--target", "_C"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return "the extension was not built: " + (done.stderr or done.stdout).strip()[-2000:]
    return "the extension was built with CUDA"


def part(name: str, peak: float) -> Callable[[float], dict[str, Any]]:
    """The function of a part, called with the copy bandwidth; imports the package, which must have been built.

    ``peak``: TFLOP/s of the matrix product.
    """
    import gpu_checks
    import gpu_conditions
    import gpu_figures

    from scoresde_fast.precision import arithmetic

    checks = {
        "noise": gpu_checks.noise,
        "steps": gpu_checks.steps,
        "group_norm_silu": gpu_checks.group_norm_silu,
        "fir_resample": gpu_checks.fir,
        "group_norm_attention": gpu_checks.attention_block,
        "convolution": gpu_checks.convolutions,
        "conditions": gpu_conditions.conditions,
    }
    if name in checks:

        def check(_bandwidth: float) -> dict[str, Any]:
            # A reference in TF32 would allow twice the error of TF32.
            with arithmetic("fp32", torch.device(gpu_checks.DEVICE)):
                return checks[name]()

        return check
    rows = {"rows 1-2": gpu_figures.norm_rows, "rows 3-5": gpu_figures.step_rows, "row 12": gpu_figures.attention_row}
    return rows.get(name) or (lambda _bandwidth: gpu_figures.convolution_rows(peak))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="say what would run, and stop")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="run these parts alone")
    parser.add_argument("--no-build", action="store_true", help="use the extension as it is")
    parser.add_argument("--minutes", type=float, default=7.5, help="start no part after this long")
    parser.add_argument("--out", type=Path, help="the JSON file; default benchmarks/results/DEVICE-DATE.json")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:<22} {what}" for name, (what, _) in PARTS.items()))
        return 0
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU and none was found; `--list` says what it would run")
        return 3

    from scoresde_fast.bench.machine import copy_bandwidth, device_info, matmul_peak

    start = time.perf_counter()
    os.environ.pop("SCORESDE_FAST_BACKEND", None)
    result: dict[str, Any] = {
        "command": "python " + " ".join(["benchmarks/gpu.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "build": "not asked for" if options.no_build else build(),
        "device": device_info(),
        "copy_gb_per_s": copy_bandwidth(),
        "bf16_matmul_tflops": matmul_peak(),
        "parts": {},
    }
    device = "-".join(result["device"]["gpu"].lower().split())
    out = options.out or ROOT / "benchmarks" / "results" / f"{device}-{result['date']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{result['build']}; copy {result['copy_gb_per_s']:.0f} GB/s, matmul {result['bf16_matmul_tflops']:.0f} TFLOP/s"
    )
    failed = False
    for name in options.only or PARTS:
        ran = result["parts"]
        red = [check for check in PARTS[name][1] if not ran.get(check, {"passed": True}).get("passed")]
        if red:
            ran[name] = {"left_out": f"{', '.join(red)} failed"}
        elif time.perf_counter() - start > 60 * options.minutes:
            ran[name] = {"left_out": f"more than {options.minutes} minutes had passed"}
        else:
            began = time.perf_counter()
            torch.manual_seed(0)
            try:
                ran[name] = part(name, result["bf16_matmul_tflops"])(result["copy_gb_per_s"])
            except Exception:  # one broken kernel must not cost the other parts their measurement
                ran[name] = {"passed": False, "error": traceback.format_exc()[-3000:]}
            torch.cuda.empty_cache()
            ran[name]["seconds"] = round(time.perf_counter() - began, 1)
        failed |= not ran[name].get("passed", "left_out" not in ran[name])
        print(f"\n{name}: {json.dumps({k: v for k, v in ran[name].items() if k != 'cases'}, indent=1)}", flush=True)
        result["seconds"] = round(time.perf_counter() - start, 1)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{out} after {result['seconds']} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Machine code of the CUDA kernels, compiled and disassembled without a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
NVCC = shutil.which(os.environ.get("CUDACXX") or "nvcc")
#: Sources that compile in seconds; each of the others takes a minute.
SMALL = ("error.cu", "normal.cu", "rademacher.cu")
#: The enumerators of csrc/cuda/step.h.
NOISE = {"none": 0, "fast": 1}
TYPE = {"float32": 1, "bfloat16": 2}
#: Elements per thread: `kStepQuads` of csrc/cuda/noise.cuh.
ELEMENTS = {"none": 16, "fast": 8}

pytestmark = pytest.mark.skipif(NVCC is None, reason="there is no nvcc on PATH, and CUDACXX names none")


def compile_cubin(source: Path, arch: str, folder: Path) -> tuple[Path, str]:
    """Return the cubin of a source, compiled with the flags of CMakeLists.txt, and the output of ptxas."""
    cubin = folder / f"{source.stem}.{arch}.cubin"
    flags = ["-std=c++17", "-O3", "-fmad=false", f"-I{ROOT / 'csrc'}", f"-arch={arch}", "-Werror", "all-warnings"]
    command = [str(NVCC), *flags, "-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return cubin, result.stderr


def sources() -> list[object]:
    """Return all CUDA sources as parameters; those with many kernels are marked slow."""
    paths = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    return [pytest.param(path, id=path.stem, marks=() if path.name in SMALL else pytest.mark.slow) for path in paths]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", sources())
def test_no_kernel_spills(source: Path, arch: str, tmp_path: Path) -> None:
    """Every kernel compiles without a warning and without spills."""
    _, output = compile_cubin(source, arch, tmp_path)
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", output)
    assert len(memory) == output.count("Compiling entry function") and (memory or source.stem == "error")
    assert set(memory) <= {("0", "0", "0")}, output


def opcodes(cubin: Path) -> dict[str, list[str]]:
    """Return the instructions of each function of a cubin."""
    triton = find_spec("triton")
    beside = Path(str(triton.origin)).parent / "backends/nvidia/bin/cuobjdump" if triton else Path()
    tool = shutil.which("cuobjdump") or (str(beside) if beside.is_file() else None)
    if tool is None:
        pytest.skip("there is no cuobjdump, neither on PATH nor in Triton")
    text = subprocess.run([tool, "-sass", str(cubin)], check=True, capture_output=True, text=True).stdout
    functions = (part.split(maxsplit=1) for part in text.split("Function : ")[1:])
    codes_of = {name: re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", code) for name, code in functions}
    return {name: [code for code in codes if code != "NOP"] for name, codes in codes_of.items()}


def test_step_instructions(tmp_path: Path) -> None:
    """a x + b s + c z stays within its budget of instructions per element, and accesses its data 16 bytes at a time."""
    cubin, _ = compile_cubin(ROOT / "csrc" / "cuda" / "affine_step.cu", "sm_90", tmp_path)
    functions = opcodes(cubin)
    steps = [("none", "float32", 8), ("none", "bfloat16", 8), ("fast", "float32", 36), ("fast", "bfloat16", 40)]
    for noise, output, budget in steps:
        template = f"affine_step_kernelILNS0_5NoiseE{NOISE[noise]}ELNS0_4TypeE{TYPE[output]}ELb1ELb1E"
        (codes,) = (codes for name, codes in functions.items() if template in name)
        assert len(codes) / ELEMENTS[noise] <= budget
        quads = ELEMENTS[noise] // 4
        moved = Counter(code for code in codes if code.startswith(("LDG", "STG", "LD.", "ST.")))
        assert moved["LDG.E.128"] == (quads * 2 if output == "float32" else quads * 3 / 2)
        assert moved["STG.E.128"] == quads
        # Other loads are of the row (three coefficients, the draw, the counter) and the sample id.
        assert set(moved) <= {"LDG.E.128", "STG.E.128", "LDG.E", "LDG.E.64"}
        assert moved["LDG.E"] <= 5 and moved["LDG.E.64"] <= 1

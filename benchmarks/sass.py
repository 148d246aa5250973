# SPDX-License-Identifier: Apache-2.0
"""What the kernels are compiled to, without a GPU: python benchmarks/sass.py [--arch sm_90] [--only LABEL]

Compiles every form that ``scoresde_fast.kernels`` names, and with nvcc, where there is one, every csrc/cuda/*.cu;
disassembles them and prints one row a kernel. It fails (exit status 1) where a kernel spills or has local memory, where
a form costs more static instructions an element on sm_90 than its budget, and where a form whose pointers are all
aligned moves its data in pieces narrower than 16 bytes: a thread's neighbours must fill 16 bytes of the widest tensor.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported; an interpreted kernel is never compiled

import triton
from triton.backends.compiler import GPUTarget

from scoresde_fast import __version__, kernels

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
BUDGET_ARCHITECTURE = "sm_90"
#: Scalars and short vectors beside the data may be narrow: at most this share of the bytes.
NARROW_SHARE = 0.1
COLUMNS = (
    "label", "arch", "registers", "spills", "local", "shared", "instructions", "per_element", "budget", "widest",
    "narrowest", "barriers",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One kernel for one architecture; bytes, and bits of the accesses to global memory.

    ``narrow_share`` is the share of the data's bytes that move in pieces narrower than they must, None where it is not
    claimed; ``per_element`` counts a loop's body once, and is None for the small kernels that only add up.
    """

    label: str
    arch: str
    registers: int
    spills: int
    local: int
    shared: int
    instructions: int
    per_element: float | None
    budget: float | None
    widest: int
    narrowest: int
    barriers: int
    narrow_share: float | None = None

    def failures(self) -> Iterator[str]:
        """One sentence for each proof that fails."""
        if self.spills or self.local:
            yield f"{self.spills} spills and {self.local} bytes of local memory"
        if self.arch == BUDGET_ARCHITECTURE and self.budget and self.per_element and self.per_element > self.budget:
            yield f"{self.per_element:.1f} instructions an element, the budget is {self.budget:g}"
        if self.narrow_share is not None and self.narrow_share > NARROW_SHARE:
            yield f"{self.narrow_share:.0%} of the data moves in pieces that are narrower than 16 bytes"


@dataclass(frozen=True)
class Code:
    """A disassembled function: opcodes with their modifiers in order, and what it holds."""

    name: str
    opcodes: list[str]
    registers: int
    local: int
    shared: int

    def count(self, *stems: str) -> int:
        return sum(opcode.split(".")[0] in stems for opcode in self.opcodes)

    def accesses(self) -> list[int]:
        """The width in bits of every access to global memory."""
        found = (re.match(r"(?:LDG|STG|LDGSTS|LD|ST)\.", opcode) and opcode for opcode in self.opcodes)
        return [_width(opcode) for opcode in found if opcode]


def _width(opcode: str) -> int:
    modifiers = opcode.split(".")
    for word, bits in {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}.items():
        if word in modifiers:
            return bits
    return 32


def disassemble(cubin: bytes) -> list[Code]:
    """Every function of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text, usage = (
            subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("-sass", "-res-usage")
        )
    held = {
        name: [int(number) for number in numbers]
        for name, *numbers in re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    }
    codes = []
    for part in re.split(r"Function : ", text)[1:]:
        name = part.split(maxsplit=1)[0]
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", part)
        registers, stack, shared, local = held[name]
        codes.append(Code(name, [code for code in opcodes if code != "NOP"], registers, stack + local, shared))
    return codes


def narrow_share(ttgir: str, code: Code, threads: int) -> float:
    """The share of the bytes of large tensors that a thread moves in pieces narrower than these must be.

    Triton's own program tells what the machine code does not: which accesses are scalars or short vectors.
    """
    bits = {"f64": 64, "i64": 64, "f32": 32, "i32": 32, "f16": 16, "bf16": 16, "i16": 16, "i8": 8, "i1": 8}
    tensors, small = [], 0.0
    for line in ttgir.splitlines():
        if not re.search(r"= tt\.load |tt\.store |async_copy_global_to_local", line):
            continue
        scalar = re.search(r": !tt\.ptr<(\w+)>", line)
        tensor = re.search(r"tensor<([\dx]+)x!tt\.ptr<(\w+)>", line)
        if scalar:
            small += bits.get(scalar[1], 8) / 8
        elif tensor:
            tensors.append((math.prod(int(size) for size in tensor[1].split("x")), bits.get(tensor[2], 8)))
    if not tensors:
        return 0.0
    largest = max(size for size, _ in tensors)
    large = [width for size, width in tensors if 4 * size >= largest]
    small += sum(max(1, size // threads) * width / 8 for size, width in tensors if 4 * size < largest)
    least = 128 * min(large) // max(large)
    accesses = code.accesses()
    narrow = max(0.0, sum(width for width in accesses if width < least) / 8 - small)
    return narrow / max(1.0, sum(accesses) / 8 - small)


def forms(only: str) -> list[tuple[str, int]]:
    """(module, index) of every form whose label has ``only`` in it."""
    found = []
    for module in pkgutil.iter_modules(kernels.__path__):
        list_forms = getattr(import_module(f"scoresde_fast.kernels.{module.name}"), "specialisations", None)
        for index, form in enumerate(list_forms() if list_forms else []):
            if only.lower() in form.label.lower():
                found.append((module.name, index))
    return found


def compile_form(module: str, index: int, arch: str) -> list[Row]:
    """Compile one form with Triton."""
    form = import_module(f"scoresde_fast.kernels.{module}").specialisations()[index]
    names = form.kernel.arg_names
    source = triton.compiler.ASTSource(
        fn=form.kernel,
        signature={name: form.signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in form.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in form.aligned},
    )
    options = {"num_warps": form.warps, "num_stages": form.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", int(arch[3:]), 32), options=options)
    (code,) = disassemble(compiled.asm["cubin"])
    pointers = {name for name, kind in form.signature.items() if kind.startswith("*")}
    aligned = pointers <= set(form.aligned)
    threads = 32 * form.warps
    per_element = round(len(code.opcodes) * threads / form.elements, 2) if form.elements >= threads else None
    share = narrow_share(compiled.asm["ttgir"], code, threads) if aligned else None
    return [_row(form.label, arch, code, compiled.metadata.shared, per_element, form.budget, share)]


def compile_source(source: str, arch: str) -> list[Row]:
    """Compile one file of csrc/cuda with nvcc."""
    nvcc = find_nvcc()
    assert nvcc is not None
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        options = ["-std=c++17", "-O3", f"-arch={arch}", f"-I{ROOT / 'csrc'}", "--expt-relaxed-constexpr"]
        subprocess.run([nvcc, "-cubin", *options, "-o", str(cubin), source], check=True)
        codes = disassemble(cubin.read_bytes())
    return [_row(f"{Path(source).name}: {_readable(code.name)}", arch, code, code.shared) for code in codes]


def _row(
    label: str,
    arch: str,
    code: Code,
    shared: int,
    per_element: float | None = None,
    budget: float | None = None,
    share: float | None = None,
) -> Row:
    widths, spills, barriers = code.accesses() or [0], code.count("LDL", "STL"), code.count("BAR")
    return Row(
        label, arch, code.registers, spills, code.local, shared, len(code.opcodes), per_element, budget, max(widths),
        min(widths), barriers, share,
    )  # fmt: skip


def _readable(name: str) -> str:
    """A C++ function's name without its arguments, where c++filt is there to tell."""
    tool = shutil.which("c++filt")
    plain = subprocess.run([tool, name], capture_output=True, text=True).stdout.strip() if tool else name
    plain = re.sub(r"\((bool|int|unsigned int|long)\)", "", plain.replace("(anonymous namespace)::", ""))
    return plain.partition("(")[0].removeprefix("void ")


@cache
def find_nvcc() -> str | None:
    """$CUDACXX, nvcc on PATH, or that of the package nvidia-cuda-nvcc."""
    named = os.environ.get("CUDACXX") or "nvcc"
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / "cu13" / "bin" for folder in (spec.submodule_search_locations or [])] if spec else []
    return shutil.which(named) or next((str(path / "nvcc") for path in folders if (path / "nvcc").is_file()), None)


def measure(architectures: list[str], only: str) -> list[Row]:
    """Compile everything whose label or file name has ``only`` in it, in two processes."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu")) if find_nvcc() else []
    wanted = [str(source) for source in sources if only.lower() in source.name.lower()]
    labels, results = forms(only), list[Future[list[Row]]]()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for arch in architectures:
            results += [pool.submit(compile_source, source, arch) for source in wanted]
            results += [pool.submit(compile_form, module, index, arch) for module, index in labels]
    return sorted((row for result in results for row in result.result()), key=lambda row: row.label)


def show(rows: list[Row]) -> str:
    """The table, in Markdown."""
    lines = ["| " + " | ".join(COLUMNS).replace("_", " ") + " |", "| --- " * len(COLUMNS) + "|"]
    for row in rows:
        cells = [getattr(row, column) for column in COLUMNS]
        texts = ["" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """What compiled: the results hold for these alone."""
    nvcc, said = find_nvcc(), ""
    if nvcc:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout.strip().splitlines()[-1]
    return {"scoresde_fast": __version__, "triton": triton.__version__, "python": sys.version.split()[0], "nvcc": said}


def main() -> int:
    """Print the table and what failed; the exit status is 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="default: all of them")
    parser.add_argument("--only", default="", help="part of a label or of a file's name")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = measure(options.arch or list(ARCHITECTURES), options.only)
    failures = [f"{row.label}, {row.arch}: {reason}" for row in rows for reason in row.failures()]
    print(show(rows))
    for failure in failures:
        print(f"FAILED {failure}")
    if options.json:
        result: dict[str, Any] = {
            "rows": [asdict(row) for row in rows],
            "failures": failures,
            "command": shlex.join(["python", "benchmarks/sass.py", *sys.argv[1:]]),
            "versions": versions(),
            "date": date.today().isoformat(),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())

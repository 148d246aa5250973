# SPDX-License-Identifier: Apache-2.0
"""Checks of the kernels' machine code without a GPU: python -m benchmarks.kernels.sass [--arch sm_90] [--only LABEL]

Compiles all variants of sass_variants.py and, if nvcc is installed, the forms of csrc/cuda that samplers use;
disassembles them and prints one row for each. The exit status is 1 if a kernel spills or uses local memory, if it has
more static instructions per element on sm_90 than its budget, or if a kernel with aligned pointers accesses its data in
units of less than 16 bytes (proportionally less for tensors of narrower elements). nvcc's output is cached in
build/sass. tests/build_system/test_cuda.py checks all of csrc/cuda for spills.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import multiprocessing
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported; an interpreted kernel is never compiled

import triton
from triton.backends.compiler import GPUTarget

from benchmarks.kernels.sass_variants import variants
from scoresde_fast import __version__

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
BUDGET_ARCHITECTURE = "sm_90"
NVCC_OPTIONS = ("-std=c++17", "-O3", "-fmad=false")
"""Options of nvcc, as in CMakeLists.txt."""
NARROW_SHARE = 0.1
"""Maximum fraction of bytes in narrow accesses."""
COLUMNS = (
    "label", "arch", "instructions", "per_element", "budget", "registers", "spills", "local", "shared", "widest",
    "narrowest", "barriers",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Results for one kernel on one architecture.

    ``local`` and ``shared`` memory are in bytes, ``widest`` and ``narrowest`` global accesses in bits.  ``per_element``
    is the number of static instructions per element; it counts a loop's body once, and is None for small reduction
    kernels.  ``narrow_share`` is the fraction of the data's bytes in too narrow accesses, None if it is not checked.
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
        """Yield a message for each failed check."""
        if self.spills or self.local:
            yield f"{self.spills} spills and {self.local} bytes of local memory"
        if self.arch == BUDGET_ARCHITECTURE and self.budget and self.per_element and self.per_element > self.budget:
            yield f"{self.per_element:.1f} instructions per element, the budget is {self.budget:g}"
        if self.narrow_share is not None and self.narrow_share > NARROW_SHARE:
            yield f"{self.narrow_share:.0%} of the data is accessed in units of less than 16 bytes"


@dataclass(frozen=True)
class Compiled:
    """The machine code of one function, its memory use in bytes, and the properties of its form.

    ``thread_elements`` is the number of elements that a thread computes, ``least`` the required minimum width in bits
    of an access to its data, ``small`` the bytes of other data: scalars and short vectors.
    """

    label: str
    arch: str
    code: bytes
    registers: int
    local: int
    shared: int
    thread_elements: float | None
    budget: float | None
    least: int | None
    small: float

    def row(self, opcodes: list[str]) -> Row:
        """Return the row of this function from its instructions."""
        stems = [opcode.split(".")[0] for opcode in opcodes]
        widths = [_width(opcode) for opcode in opcodes if re.match(r"(?:LDG|STG|LDGSTS|LD|ST)\.", opcode)] or [0]
        share = None
        if self.least is not None:
            narrow = max(0.0, sum(width for width in widths if width < self.least) / 8 - self.small)
            share = round(narrow / max(1.0, sum(widths) / 8 - self.small), 3)
        return Row(
            label=self.label,
            arch=self.arch,
            registers=self.registers,
            spills=stems.count("LDL") + stems.count("STL"),
            local=self.local,
            shared=self.shared,
            instructions=len(opcodes),
            per_element=round(len(opcodes) / self.thread_elements, 2) if self.thread_elements else None,
            budget=self.budget,
            widest=max(widths),
            narrowest=min(widths),
            barriers=stems.count("BAR"),
            narrow_share=share,
        )


def _width(opcode: str) -> int:
    modifiers = opcode.split(".")
    for word, bits in {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}.items():
        if word in modifiers:
            return bits
    return 32


def functions(cubin: bytes) -> Iterator[tuple[str, bytes, int, int, int]]:
    """Yield (name, code, registers, bytes of local memory, bytes of shared memory) of each function in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    resources = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + i * size) for i in range(count)]
    code = {}
    for name, _, _, _, offset, length in sections:
        first = sections[names][4] + name
        code[cubin[first : cubin.index(b"\0", first)].decode()] = cubin[offset : offset + length]
    for name, registers, stack, shared, local in resources:
        yield name, code[f".text.{name}"], int(registers), int(stack) + int(local), int(shared)


def disassemble(arch: str, codes: Iterable[bytes]) -> list[list[str]]:
    """Return the opcodes of each function, with modifiers but without padding; the disassembler starts slowly."""
    codes = list(codes)
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "--binary", arch.replace("sm_", "SM"), file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    all_opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", text)
    assert 16 * len(all_opcodes) == sum(map(len, codes))
    rest = iter(all_opcodes)
    split = [[next(rest) for _ in range(len(code) // 16)] for code in codes]
    return [[opcode for opcode in opcodes if opcode != "NOP"] for opcodes in split]


def data_width(ttgir: str, threads: int) -> tuple[int, float]:
    """Return ``least`` and ``small`` of `Compiled` for a Triton kernel, given its TTGIR.

    Unlike the machine code, TTGIR shows which accesses are to scalars or short vectors.
    """
    bits = {"f64": 64, "i64": 64, "f32": 32, "i32": 32, "f16": 16, "bf16": 16, "i16": 16, "i8": 8, "i1": 8}
    tensors, small = [], 0.0
    for line in ttgir.splitlines():
        if not re.search(r"= tt\.load |tt\.store |async_copy_global_to_local", line):
            continue
        if scalar := re.search(r": !tt\.ptr<(\w+)>", line):
            small += bits.get(scalar[1], 8) / 8
        elif tensor := re.search(r"tensor<([\dx]+)x!tt\.ptr<(\w+)>", line):
            size = math.prod(int(length) for length in tensor[1].split("x"))
            sharers = 4 if "parent = #mma" in line else threads  # the columns of a product are shared by four threads
            tensors.append((size, bits.get(tensor[2], 8), max(1, size // sharers)))
    if not tensors:
        return 0, small
    least = max(tensors)[0] / 4
    large = [width for size, width, _ in tensors if size >= least]
    small += sum(elements * width / 8 for size, width, elements in tensors if size < least)
    return 128 * min(large) // max(large), small


def triton_forms(only: str, quick: bool) -> list[int]:
    """Return the indices of the variants whose label contains ``only``.

    With ``quick`` only those with a budget, and the first variant of kernels without any budget.
    """
    forms = variants()
    budgeted = {form.kernel for form in forms if form.budget}
    seen: set[Any] = set()
    indices = []
    for index, form in enumerate(forms):
        selected = form.budget or form.kernel not in budgeted | seen
        seen.add(form.kernel)
        if only.lower() in form.label.lower() and (selected or not quick):
            indices.append(index)
    return indices


def compile_triton(index: int, arch: str) -> list[Compiled]:
    """Compile one variant with Triton."""
    form = variants()[index]
    names = form.kernel.arg_names
    source = triton.compiler.ASTSource(
        fn=form.kernel,
        signature={name: form.signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in form.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in form.aligned},
    )
    options = {"num_warps": form.warps, "num_stages": form.stages, "maxnreg": form.maxnreg, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", int(arch[3:]), 32), options=options)
    ((_, code, registers, local, _),) = functions(compiled.asm["cubin"])
    pointers = {name for name, kind in form.signature.items() if kind.startswith("*")}
    threads = 32 * form.warps
    least, small = data_width(compiled.asm["ttgir"], threads) if pointers <= set(form.aligned) else (None, 0.0)
    elements = form.elements / threads if form.elements >= threads else None
    shared = compiled.metadata.shared
    return [Compiled(form.label, arch, code, registers, local, shared, elements, form.budget, least, small)]


@dataclass(frozen=True)
class CudaForm:
    """An instantiation of a CUDA kernel.

    Attributes:
        source: name of the file csrc/cuda/SOURCE.cuh.
        kernel: function template with its arguments except the last, the number of threads.
        thread_elements: elements that a thread computes, or for reductions, sums in one loop iteration.
        scalars: bytes of the row and the sample that each thread reads, or of a sum that it writes.
    """

    label: str
    source: str
    kernel: str
    thread_elements: int
    scalars: int
    budget: float | None = None

    def mangled(self) -> re.Pattern[str]:
        """Return the pattern of this form's name in a cubin."""
        values = {"false": 0, "true": 1, "none": 0, "fast": 1, "precise": 2, "signs": 3, "float32": 1, "bfloat16": 2}
        name, _, arguments = self.kernel.partition("<")
        numbers = [values.get(word.split("::")[-1], word) for word in arguments.split(", ")]
        return re.compile(name + "I" + "".join(rf"L[^L]*?{number}E" for number in numbers))


def cuda_forms() -> list[CudaForm]:
    """Return the forms that samplers use most: sizes divisible by four, and for steps a row with only the state."""
    forms = [
        CudaForm("normal, fast, CUDA", "normal", "field_kernel<Noise::fast, true", 8, 8, 40.0),
        CudaForm("rademacher, CUDA", "normal", "field_kernel<Noise::signs, true", 8, 8, 20.0),
    ]
    # Scalars: two coefficients and the counter; with noise also a third coefficient, the draw and the sample id.  Pairs
    # have six coefficients, or nine with noise.
    listed: list[tuple[str, str, str, int, int, bool]] = [
        ("affine_step", "no noise, {} score", "none, {}, true, true", 16, 12, True),
        ("affine_step", "{} score", "fast, {}, true, true", 8, 28, True),
        ("affine_step", "every register, {} score", "fast, {}, false, true", 8, 60, False),
        ("affine_step_pair", "no noise, {} score", "none, {}, true, true", 32, 28, True),
        ("affine_step_pair", "{} score", "fast, {}, true, true", 16, 52, True),
        ("affine_step_pair", "every register, {} score", "fast, {}, false, true", 16, 148, False),
        ("langevin_step", "{} score", "fast, {}, true", 8, 40, True),
        ("langevin_norms", "{} score", "fast, {}, true, 4", 8, 40, False),
        ("hutchinson_dot", "{} tangent, signs", "signs, {}, true, 4", 8, 64, False),
    ]
    for operation, label, arguments, elements, scalars, has_budget in listed:
        for bits, kind, noisy in [("fp32", "float32", 45.0), ("bf16", "bfloat16", 48.0)]:
            budget = 8.0 if arguments.startswith("none") else noisy
            kernel = f"{operation}_kernel<Noise::{arguments.format(f'Type::{kind}')}"
            title = f"{operation}, {label.format(bits)}, CUDA"
            source = "langevin" if operation.startswith("langevin") else operation
            forms.append(CudaForm(title, source, kernel, elements, scalars, budget if has_budget else None))
    return forms


def compile_cuda(forms: list[CudaForm], arch: str) -> list[Compiled]:
    """Compile the forms of one source of csrc/cuda with nvcc."""
    nvcc = find_nvcc()
    assert nvcc is not None
    lines = [f"auto form{i} = &{form.kernel}, 128>;" for i, form in enumerate(forms)]
    source = f'#include "cuda/{forms[0].source}.cuh"\nnamespace ssf::cuda {{\n' + "\n".join(lines) + "\n}\n"
    command = [nvcc, *NVCC_OPTIONS, f"-I{ROOT / 'csrc'}", f"-arch={arch}", "-cubin"]
    headers = sorted(path for path in (ROOT / "csrc").glob("c*/*.*h") if path.parent.name in ("core", "cuda"))
    inputs = "".join([source, *command, nvcc_version(), *(path.read_text() for path in headers)])
    cubin = ROOT / "build" / "sass" / f"{hashlib.sha256(inputs.encode()).hexdigest()}.cubin"
    if not cubin.exists():
        cubin.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cubin.parent) as folder:
            source_file, result = Path(folder) / "forms.cu", Path(folder) / "forms.cubin"
            source_file.write_text(source)
            subprocess.run([*command, "-o", str(result), str(source_file)], check=True)
            result.rename(cubin)
    all_functions = list(functions(cubin.read_bytes()))
    compiled = []
    for form in forms:
        ((_, code, registers, local, shared),) = (item for item in all_functions if form.mangled().search(item[0]))
        properties = (form.thread_elements, form.budget, 128, form.scalars)
        compiled.append(Compiled(form.label, arch, code, registers, local, shared, *properties))
    return compiled


@cache
def find_nvcc() -> str | None:
    """Return the path of $CUDACXX, of nvcc on PATH, or of nvcc in the package nvidia-cuda-nvcc, or None."""
    named = os.environ.get("CUDACXX") or "nvcc"
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / "cu13" / "bin" for folder in (spec.submodule_search_locations or [])] if spec else []
    return shutil.which(named) or next((str(path / "nvcc") for path in folders if (path / "nvcc").is_file()), None)


@cache
def nvcc_version() -> str:
    """Return nvcc's version, or "" without nvcc."""
    if nvcc := find_nvcc():
        return subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout.split("\n")[-2]
    return ""


def measure(architectures: list[str], only: str, quick: bool) -> list[Row]:
    """Compile and check the forms whose label contains ``only``, in two processes; ``quick`` as in `triton_forms`."""
    by_source: dict[str, list[CudaForm]] = {}
    for form in cuda_forms() if find_nvcc() else []:
        if only.lower() in form.label.lower() and (form.budget or not quick):
            by_source.setdefault(form.source, []).append(form)
    indices, rows = triton_forms(only, quick), list[Row]()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = {
            arch: [pool.submit(compile_cuda, forms, arch) for forms in by_source.values()]
            + [pool.submit(compile_triton, index, arch) for index in indices]
            for arch in architectures
        }
        for arch, pending in results.items():
            compiled = [item for future in pending for item in future.result()]
            opcodes = disassemble(arch, (item.code for item in compiled))
            rows += [item.row(codes) for item, codes in zip(compiled, opcodes, strict=True)]
    return sorted(rows, key=lambda row: row.label)


def show(rows: list[Row]) -> str:
    """Return a Markdown table of the rows."""
    lines = ["| " + " | ".join(COLUMNS).replace("_", " ") + " |", "| --- " * len(COLUMNS) + "|"]
    for row in rows:
        cells = [getattr(row, column) for column in COLUMNS]
        texts = ["" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of the package and the compilers; the results are valid only for these."""
    python = sys.version.split()[0]
    return {"scoresde_fast": __version__, "triton": triton.__version__, "python": python, "nvcc": nvcc_version()}


def main() -> int:
    """Print the table and the failures, and return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="default: all architectures")
    parser.add_argument("--only", default="", help="only forms whose label contains this text")
    parser.add_argument("--quick", action="store_true", help="only forms with a budget, or one form of other kernels")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = measure(options.arch or list(ARCHITECTURES), options.only, options.quick)
    failures = [f"{row.label}, {row.arch}: {reason}" for row in rows for reason in row.failures()]
    print(show(rows))
    for failure in failures:
        print(f"FAILED {failure}")
    if options.json:
        result: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "benchmarks.kernels.sass", *sys.argv[1:]]),
            "versions": versions(),
            "date": date.today().isoformat(),
            "failures": failures,
        }
        lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
        options.json.write_text(f'{json.dumps(result)[:-1]}, "rows": [\n{lines}\n]}}\n')
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What a kernel is compiled for: read by the proofs, which compile each form for every architecture, without a GPU.

Every kernel module has a function ``specialisations() -> list[Specialisation]`` of the forms that its launcher makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Specialisation:
    """One compiled form of a kernel.

    Attributes:
        label: the operation and the form, as the table of instructions shows it.
        kernel: the ``triton.jit`` function.
        signature: its run-time arguments in order, name -> Triton type ("*fp32", "*bf16", "i32", "i64").
        constants: its ``constexpr`` arguments.
        elements: output elements that one program makes.
        aligned: the arguments whose value is a multiple of 16: pointers, and sizes where the launcher knows so.
        warps, stages, maxnreg: the launch options.
        budget: the most static instructions an element that it may cost on sm_90, where one is set.
    """

    label: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    elements: int
    aligned: tuple[str, ...] = field(default=())
    warps: int = 4
    stages: int = 3
    maxnreg: int | None = None
    budget: float | None = None

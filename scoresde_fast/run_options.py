# SPDX-License-Identifier: Apache-2.0
"""How a run is computed, whatever it computes: device, precision, batches, and the seed of its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """How a run is computed.

    Attributes:
        run_seed: Seed of the whole run, 0 to 2^64 - 1: another one gives other images for the same seeds.
        batch_size: Images computed together; auto: as many as fit on the GPU, found by trial once and remembered;
            on a CPU 64.
        device: cpu, cuda or cuda:1.
        precision: What the network computes in; auto: bf16 on a GPU that has it, and fp32 on a CPU or where a solver
            chooses its own steps. State, coefficients and noise are float32 in any case.
        strict: Images that are the same to the last bit whatever the batch size, the other seeds and the CPU threads.
        compile: Compile the network; auto: on a GPU. Where a condition takes the network's gradient it is not compiled.
        capture: Capture the loop as CUDA graphs; auto: on a GPU.
        backend: What makes noise and steps: auto (the fastest that is there), triton, cuda, cpu or reference; else what
            the environment variable SCORESDE_FAST_BACKEND says, or auto.
    """

    run_seed: int = 0
    batch_size: int | Literal["auto"] = 64
    device: str = "cpu"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    strict: bool = False
    compile: bool | Literal["auto"] = "auto"
    capture: bool | Literal["auto"] = "auto"
    backend: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))  # a torch.device is welcome
        if self.batch_size != "auto":
            require_batch_size(self.batch_size)


def require_batch_size(batch_size: int) -> None:
    """Raises ``ValueError`` unless it is a whole number of at least 1."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise ValueError(f"batch_size is {batch_size!r}; choose a whole number or 'auto'")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or 'auto'")

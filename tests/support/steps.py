# SPDX-License-Identifier: Apache-2.0
"""Tables, registers and error bounds, for the tests of step operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

from scoresde_fast.ops import Operation
from scoresde_fast.ops.step_table import DeviceTable

SHAPES = [(1,), (3,), (63,), (3, 7, 5), (3, 8, 8), (500,)]
SHAPE_IDS = ["x".join(map(str, shape)) for shape in SHAPES]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DTYPE_IDS = ["float32", "bfloat16", "float16"]
SAMPLE_IDS = torch.tensor([0, 2**40 + 3, 2**63 - 1])
RUN_SEED = 0xFEDCBA9876543210


def backends(operation: Operation, device: str = "cpu") -> list[Any]:
    """Return each optional backend of an operation as a test parameter, skipped with a reason if unavailable."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=f"{name}: {why}"), id=name)
        for name, backend in operation.backends.items()
        for why in [backend.refusal(device, by_name=True)]
    ]


def opcheck(implementation: Callable[..., Any], arguments: tuple[Any, ...], **options: Any) -> None:
    """Check the schema, fake kernel, aliasing and dispatch of a registered operator."""
    assert isinstance(implementation, OpOverload)
    torch.library.opcheck(implementation, arguments, **options)


def random_table(width: int, seed: int = 0) -> DeviceTable:
    """Return four rows of random coefficients, with extreme draws, slots beyond the ring, and saving on and off."""
    generator = torch.Generator().manual_seed(seed)
    control = torch.tensor([[-1, 0, 0], [5, 1, 1], [2**31 - 1, 7, 1], [-(2**31), 2, 0]], dtype=torch.int32)
    return DeviceTable(torch.randn(4, width, generator=generator), control)


@dataclass
class Registers:
    """State, saved state, history of two outputs and network output of a random step."""

    state: Tensor
    saved: Tensor
    history: Tensor
    output: Tensor

    @classmethod
    def random(cls, shape: tuple[int, ...], output_shape: tuple[int, ...], dtype: torch.dtype) -> Registers:
        generator = torch.Generator().manual_seed(1)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        batch = len(SAMPLE_IDS)
        return cls(normal(batch, *shape), normal(batch, *shape), normal(2, batch, *shape),
                   normal(batch, *output_shape).to(dtype))  # fmt: skip

    def to(self, dtype: torch.dtype) -> Registers:
        """Return a copy with the registers in another dtype, except for the network's output."""
        state, saved, history = (register.to(dtype, copy=True) for register in self.changed())
        return Registers(state, saved, history, self.output)

    def changed(self) -> list[Tensor]:
        """Return the registers that a step writes."""
        return [self.state, self.saved, self.history]


def assert_as_exact(run: Callable[[Registers, str], list[Tensor]], registers: Registers, backend: str) -> None:
    """Assert that a backend's error against float64 is at most twice that of the float32 reference plus one ulp."""
    exact = run(registers.to(torch.float64), "reference")
    plain = run(registers.to(torch.float32), "reference")
    ours = run(registers.to(torch.float32), backend)
    for result, reference, truth in zip(ours, plain, exact, strict=True):
        assert_close_to_exact(result, reference, truth)


def assert_close_to_exact(result: Tensor, reference: Tensor, truth: Tensor) -> None:
    """Assert |result - truth| <= 2 |reference - truth| + 1 ulp of the largest value, in the result's dtype."""
    assert result.dtype == reference.dtype and result.shape == truth.shape
    if truth.numel() == 0:
        return
    largest = truth.abs().max().item()
    ulp = largest * torch.finfo(result.dtype).eps
    error = (result.double() - truth).abs().max().item()
    allowed = 2 * (reference.double() - truth).abs().max().item() + ulp
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"

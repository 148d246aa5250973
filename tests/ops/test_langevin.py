# SPDX-License-Identifier: Apache-2.0
"""The operation ``langevin`` and its halves: every backend against float64, and rejected arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.ops.checks import signed64
from scoresde_fast.ops.langevin import langevin, norms_operation, operation, step_operation
from scoresde_fast.ops.step_table import COLUMNS, WIDTH, DeviceTable
from tests.support.steps import (
    DTYPE_IDS,
    DTYPES,
    RUN_SEED,
    SAMPLE_IDS,
    SHAPE_IDS,
    SHAPES,
    Registers,
    assert_as_exact,
    backends,
    opcheck,
    random_table,
)

BACKENDS = backends(step_operation)


@pytest.fixture(scope="module")
def table() -> DeviceTable:
    """Return a random table whose Langevin factors are not negative."""
    result = random_table(WIDTH)
    result.coefficients[:, COLUMNS.langevin] = torch.tensor([0.05, 0.01, 0.5, 0.0])
    return result


def row_of(table: DeviceTable, row: int, ids: Tensor = SAMPLE_IDS, counter: Tensor | None = None) -> tuple[Any, ...]:
    """Return the arguments that select a row and its noise, in the order of the schemas."""
    return ids, table.coefficients, table.control, counter, row


def norms_of(output: Tensor, row: tuple[Any, ...], backend: str, precise: bool = False) -> Tensor:
    """Return the norms of the row by ``langevin_norms``."""
    norms: Tensor = norms_operation.choose("cpu", backend)(output, *row, signed64(RUN_SEED), precise)
    return norms


def take_step(
    state: Tensor, output: Tensor, norms: Tensor, row: tuple[Any, ...], backend: str,
    norm: str = "sample", precise: bool = False,
) -> None:  # fmt: skip
    """Take the step of the row by ``langevin_step``."""
    step_operation.choose("cpu", backend)(state, output, norms, *row, norm == "sample", signed64(RUN_SEED), precise)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_against_float64(backend: str, shape: tuple[int, ...], dtype: torch.dtype, table: DeviceTable) -> None:
    """The sums of squares of score and noise are accurate to 1e-6."""
    output = Registers.random(shape, shape, dtype).output
    exact = norms_of(output.double(), row_of(table, 1), "reference")
    ours = norms_of(output, row_of(table, 1), backend, precise=True)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_step_against_float64(backend: str, shape: tuple[int, ...], norm: Any, table: DeviceTable) -> None:
    """The norms and then the step are accurate, with the norms of the sample and of the batch."""

    def step(registers: Registers, name: str) -> list[Tensor]:
        wide = registers.state.dtype == torch.float64
        output = registers.output.to(registers.state.dtype)
        norms = norms_of(output, row_of(table, 2), name, precise=True)
        assert norms.dtype == (torch.float64 if wide else torch.float32)
        take_step(registers.state, output, norms, row_of(table, 2), name, norm, precise=True)
        return [registers.state]

    assert_as_exact(step, Registers.random(shape, shape, torch.float32), backend)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_step_against_float64(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, norm: Any, table: DeviceTable
) -> None:
    """Norms and step as one operation are accurate, in every dtype of the network's output."""

    def step(registers: Registers, name: str) -> list[Tensor]:
        langevin(
            registers.state, registers.output, SAMPLE_IDS, table, 2, norm=norm, run_seed=RUN_SEED, precise=True,
            implementation=operation.choose("cpu", name),
        )  # fmt: skip
        return [registers.state]

    assert_as_exact(step, Registers.random(shape, shape, dtype), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_are_deterministic(backend: str, table: DeviceTable) -> None:
    """A sample alone, or a second run, gives the same bits: the order in which threads finish has no effect."""
    output = torch.randn(3, 5, 1000, generator=torch.Generator().manual_seed(4))
    together = norms_of(output, row_of(table, 0), backend)
    assert torch.equal(together, norms_of(output, row_of(table, 0), backend))
    alone = norms_of(output[1:2], row_of(table, 0, SAMPLE_IDS[1:2]), backend)
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_counter(backend: str, table: DeviceTable) -> None:
    """A row index from a counter in memory equals one from the host."""
    registers = Registers.random((3, 7, 5), (3, 7, 5), torch.float32)
    from_host, from_counter = row_of(table, 2), row_of(table, 1, counter=torch.tensor([1]))
    norms = norms_of(registers.output, from_host, backend)
    assert torch.equal(norms, norms_of(registers.output, from_counter, backend))
    first, second = registers.state.clone(), registers.state.clone()
    take_step(first, registers.output, norms, from_host, backend)
    take_step(second, registers.output, norms, from_counter, backend)
    assert torch.equal(first, second) and not torch.equal(first, registers.state)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no samples", "no elements"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend: str, shape: tuple[int, ...], table: DeviceTable) -> None:
    """Zero samples and zero elements are valid; empty sums are 0."""
    output, row = torch.empty(shape), row_of(table, 0, SAMPLE_IDS[: shape[0]])
    norms = norms_of(output, row, backend)
    assert torch.equal(norms, torch.zeros(shape[0], 2))
    take_step(output, output.clone(), norms, row, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_compile(backend: str, table: DeviceTable) -> None:
    """Schema and fake are consistent, and a compiled corrector gives the eager result."""
    registers = Registers.random((3, 8, 8), (3, 8, 8), torch.float32)
    row = row_of(table, 1)
    make_norms, step = (operation.choose("cpu", backend) for operation in (norms_operation, step_operation))
    opcheck(make_norms, (registers.output, *row, 5, False))
    norms = norms_of(registers.output, row, backend)
    opcheck(step, (registers.state, registers.output, norms, *row, True, 5, False))
    opcheck(operation.choose("cpu", backend), (registers.state, registers.output, *row, True, 5, False))
    torch._dynamo.reset()

    def correct(state: Tensor, output: Tensor) -> Tensor:
        step(state, output, make_norms(output, *row, 5, False), *row, True, 5, False)
        return state

    compiled = torch.compile(correct, fullgraph=True, backend="aot_eager")
    eager = correct(registers.state.clone(), registers.output)
    assert torch.equal(compiled(registers.state.clone(), registers.output), eager)


X = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("error", "sentence", "change"),
    [
        (TypeError, "state is float16; it must be float32 or float64", {"state": X.half()}),
        (ValueError, r"network_output has shape \(3, 5\)", {"network_output": torch.zeros(3, 5)}),
        (ValueError, "row 9 is outside the step table", {"row": 9}),
        (ValueError, "unknown norm 'samples' - did you mean 'sample'", {"norm": "samples"}),
        (ValueError, r"it must be \(3,\), one per sample", {"sample_ids": SAMPLE_IDS[:2]}),
        (ValueError, "run seed 18446744073709551616 is out of range", {"run_seed": 2**64}),
    ],
)
def test_bad_input(error: type[Exception], sentence: str, change: dict[str, Any], table: DeviceTable) -> None:
    """The message names the value and what is allowed."""
    arguments = {"state": X, "network_output": X, "sample_ids": SAMPLE_IDS, "table": table}
    with pytest.raises(error, match=sentence):
        langevin(**{**arguments, **change})

# SPDX-License-Identifier: Apache-2.0
"""The operation ``langevin`` and its halves: every backend against float64, and rejected arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.ops.langevin import (
    langevin,
    langevin_norms,
    langevin_step,
    norms_operation,
    operation,
    step_operation,
)
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
    """Return a random table with positive Langevin factors."""
    made = random_table(WIDTH)
    made.coefficients[:, COLUMNS.langevin] = torch.tensor([0.05, 0.01, 0.5, 0.0])
    return made


def norms_of(output: Tensor, table: DeviceTable, row: int, backend: str, **options: Any) -> Tensor:
    chosen = norms_operation.choose("cpu", backend)
    return langevin_norms(output, SAMPLE_IDS, table, row, run_seed=RUN_SEED, implementation=chosen, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_against_float64(backend: str, shape: tuple[int, ...], dtype: torch.dtype, table: DeviceTable) -> None:
    """Sums of squares of score and noise, to 1e-6 of the sums of the same noise in float64."""
    output = Registers.random(shape, shape, dtype).output
    exact = norms_of(output.double(), table, 1, "reference")
    ours = norms_of(output, table, 1, backend, precise=True)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_step_against_float64(backend: str, shape: tuple[int, ...], norm: Any, table: DeviceTable) -> None:
    """The corrector's step, norms included, with the norms of the sample and of the batch."""

    def step(registers: Registers, name: str) -> list[Tensor]:
        wide = registers.state.dtype == torch.float64
        output = registers.output.to(registers.state.dtype)
        norms = norms_of(output, table, 2, name, precise=True)
        assert norms.dtype == (torch.float64 if wide else torch.float32)
        langevin_step(
            registers.state, output, norms, SAMPLE_IDS, table, 2, norm=norm, run_seed=RUN_SEED, precise=True,
            implementation=step_operation.choose("cpu", name),
        )  # fmt: skip
        return [registers.state]

    assert_as_exact(step, Registers.random(shape, shape, torch.float32), backend)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_step_against_float64(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, norm: Any, table: DeviceTable
) -> None:
    """Norms and step as one operation, in every dtype of the network's output."""

    def step(registers: Registers, name: str) -> list[Tensor]:
        langevin(
            registers.state, registers.output, SAMPLE_IDS, table, 2, norm=norm, run_seed=RUN_SEED, precise=True,
            implementation=operation.choose("cpu", name),
        )  # fmt: skip
        return [registers.state]

    assert_as_exact(step, Registers.random(shape, shape, dtype), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_are_the_same_bits_whatever_the_batch(backend: str, table: DeviceTable) -> None:
    """One sample alone, and a second run: the result does not depend on the order in which threads finish."""
    output = torch.randn(3, 5, 1000, generator=torch.Generator().manual_seed(4))
    together = norms_of(output, table, 0, backend)
    assert torch.equal(together, norms_of(output, table, 0, backend))
    alone = langevin_norms(
        output[1:2], SAMPLE_IDS[1:2], table, 0, run_seed=RUN_SEED,
        implementation=norms_operation.choose("cpu", backend),
    )  # fmt: skip
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_counter(backend: str, table: DeviceTable) -> None:
    """A row index from a counter in memory equals one from the host."""
    registers = Registers.random((3, 7, 5), (3, 7, 5), torch.float32)
    counter = torch.tensor([1])
    norms = norms_of(registers.output, table, 2, backend)
    assert torch.equal(norms, norms_of(registers.output, table, 1, backend, counter=counter))
    chosen = step_operation.choose("cpu", backend)
    first, second = registers.state.clone(), registers.state.clone()
    langevin_step(first, registers.output, norms, SAMPLE_IDS, table, 2, implementation=chosen)
    langevin_step(second, registers.output, norms, SAMPLE_IDS, table, 1, counter=counter, implementation=chosen)
    assert torch.equal(first, second) and not torch.equal(first, registers.state)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no samples", "no elements"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend: str, shape: tuple[int, ...], table: DeviceTable) -> None:
    """Zero samples and zero elements are valid; empty sums are 0."""
    output, ids = torch.empty(shape), SAMPLE_IDS[: shape[0]]
    norms = langevin_norms(output, ids, table, implementation=norms_operation.choose("cpu", backend))
    assert torch.equal(norms, torch.zeros(shape[0], 2))
    langevin_step(output, output.clone(), norms, ids, table, implementation=step_operation.choose("cpu", backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_compile(backend: str, table: DeviceTable) -> None:
    """Schema and fake hold together, and a compiled corrector gives the eager result."""
    registers = Registers.random((3, 8, 8), (3, 8, 8), torch.float32)
    row = (SAMPLE_IDS, table.coefficients, table.control, None, 1)
    make_norms, take_step = (operation.choose("cpu", backend) for operation in (norms_operation, step_operation))
    opcheck(make_norms, (registers.output, *row, 5, False))
    norms = norms_of(registers.output, table, 1, backend)
    opcheck(take_step, (registers.state, registers.output, norms, *row, True, 5, False))
    opcheck(operation.choose("cpu", backend), (registers.state, registers.output, *row, True, 5, False))
    torch._dynamo.reset()

    def correct(state: Tensor, output: Tensor) -> Tensor:
        sums = langevin_norms(output, SAMPLE_IDS, table, 1, implementation=make_norms)
        langevin_step(state, output, sums, SAMPLE_IDS, table, 1, implementation=take_step)
        return state

    compiled = torch.compile(correct, fullgraph=True, backend="aot_eager")
    eager = correct(registers.state.clone(), registers.output)
    assert torch.equal(compiled(registers.state.clone(), registers.output), eager)


X, NORMS = torch.zeros(3, 4), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("error", "sentence", "change"),
    [
        (TypeError, "state is float16; it must be float32 or float64", {"state": X.half()}),
        (ValueError, r"network_output has shape \(3, 5\)", {"network_output": torch.zeros(3, 5)}),
        (ValueError, r"norms has shape \(3,\); langevin_norms returns \(3, 2\)", {"norms": torch.ones(3)}),
        (ValueError, "row 9 is outside the step table", {"row": 9}),
        (ValueError, "unknown norm 'samples' - did you mean 'sample'", {"norm": "samples"}),
        (ValueError, r"it must be \(3,\), one per sample", {"sample_ids": SAMPLE_IDS[:2]}),
        (ValueError, "run seed 18446744073709551616 is out of range", {"run_seed": 2**64}),
    ],
)
def test_bad_input(error: type[Exception], sentence: str, change: dict[str, Any], table: DeviceTable) -> None:
    """The message names the value and what is allowed."""
    arguments = {"state": X, "network_output": X, "norms": NORMS, "sample_ids": SAMPLE_IDS, "table": table}
    with pytest.raises(error, match=sentence):
        langevin_step(**{**arguments, **change})

# SPDX-License-Identifier: Apache-2.0
"""The operations ``affine_step`` and ``affine_step_pair``: every backend against float64, and rejected arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.ops.affine_step import affine_step, operation, pair_operation
from scoresde_fast.ops.registration import Operation
from scoresde_fast.ops.step_table import COLUMNS, PAIR_COLUMNS, PAIR_WIDTH, WIDTH, DeviceTable
from scoresde_fast.rng import standard_normals
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


@dataclass(frozen=True)
class Kind:
    """One of the two operations: on states, or on pairs with twice the channels."""

    operation: Operation
    width: int
    pairs: bool

    def registers(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Registers:
        return Registers.random(((1 + self.pairs) * shape[0], *shape[1:]), shape, dtype)

    def take(self, registers: Registers, backend: str, row: int, **options: Any) -> list[Tensor]:
        """Return the registers after one step, which gets the optional registers whose options are True."""
        optional = {"network_output": registers.output, "saved": registers.saved, "history": registers.history}
        passed: dict[str, Any] = {name: value for name, value in optional.items() if options.pop(name, False)}
        ids = SAMPLE_IDS if options.pop("noise", False) else None
        affine_step(
            registers.state, random_table(self.width), row, sample_ids=ids, run_seed=RUN_SEED, pairs=self.pairs,
            **passed, **options, implementation=self.operation.choose("cpu", backend),
        )  # fmt: skip
        return registers.changed()


PLAIN = Kind(operation, WIDTH, pairs=False)
PAIR = Kind(pair_operation, PAIR_WIDTH, pairs=True)
KINDS = [
    pytest.param(kind, backend.values[0], marks=backend.marks, id=f"{name}-{backend.id}")
    for name, kind in {"plain": PLAIN, "pair": PAIR}.items()
    for backend in backends(kind.operation)
]
FORMS: dict[str, dict[str, Any]] = {
    "denoise": {"network_output": True},
    "noise": {"network_output": True, "noise": True},
    "forward": {"noise": True},
    "saved": {"network_output": True, "saved": True, "noise": True},
    "stored": {"network_output": True, "history": True},
    "multistep": {"network_output": True, "history": True, "earlier": 2, "noise": True},
    "all": {"network_output": True, "saved": True, "history": True, "earlier": 2, "noise": True},
    "no evaluation": {"saved": True, "history": True, "earlier": 1},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_against_float64(kind: Kind, backend: str, shape: tuple[int, ...], form: dict[str, Any]) -> None:
    """Every combination of tensors in the solvers is accurate, on odd shapes and with rows that save or do not."""
    for row in (0, 1) if backend == "triton" else range(4):  # the interpreter is slow; one of these saves the state

        def step(registers: Registers, backend: str, row: int = row) -> list[Tensor]:
            return kind.take(registers, backend, row, **{"precise": True, **form})

        assert_as_exact(step, kind.registers(shape), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_network_dtypes(kind: Kind, backend: str, dtype: torch.dtype) -> None:
    """A network output in half precision is read exactly, including infinities and subnormals."""
    registers = kind.registers((3, 8, 8), dtype)
    assert_as_exact(lambda r, b: kind.take(r, b, 2, precise=True, **FORMS["all"]), registers, backend)
    special = torch.tensor([float("inf"), -float("inf"), 6e-8, -1e-5, 65504.0, 0.0]).to(dtype)
    registers.output.view(-1)[:6] = special
    for ours, exact in zip(*(kind.take(registers.to(torch.float32), b, 1, **FORMS["denoise"])
                             for b in (backend, "reference")), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, exact, equal_nan=True)


@pytest.mark.parametrize("counter", [torch.int32, torch.int64], ids=["int32", "int64"])
@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_counter(kind: Kind, backend: str, counter: torch.dtype) -> None:
    """A row index from a counter in memory gives the same bits as one from the host."""
    registers = kind.registers((3, 7, 5))
    by_number = kind.take(registers.to(torch.float32), backend, 3, **FORMS["all"])
    by_counter = kind.take(
        registers.to(torch.float32), backend, 1, counter=torch.tensor([2], dtype=counter), **FORMS["all"]
    )
    assert all(map(torch.equal, by_number, by_counter))


@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_counter_past_table(kind: Kind, backend: str) -> None:
    """A counter past the table takes the last row: kernels clamp it, because the host does not read a GPU's counter."""
    table, states = random_table(kind.width), [torch.ones(3, 8) for _ in range(2)]
    implementation = kind.operation.choose("cpu", backend)
    for state, counter in zip(states, (7, 3), strict=True):
        implementation(state, None, None, None, None, table.coefficients, table.control, torch.tensor([counter]), 0, 0,
                       5, True)  # fmt: skip
    assert torch.equal(*states) and not torch.equal(states[0], torch.ones(3, 8))


@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_noise_contract(kind: Kind, backend: str) -> None:
    """With coefficient 1 for the noise and 0 for all else, the state becomes the noise of the row's draw."""
    first = PAIR_COLUMNS.noise if kind is PAIR else COLUMNS.noise
    coefficients = torch.zeros(1, kind.width)
    coefficients[0, [first, first + 2] if kind is PAIR else [first]] = 1
    table = DeviceTable(coefficients, torch.tensor([[-2, 0, 0]], dtype=torch.int32))
    state = torch.zeros(3, 2, 63)
    affine_step(
        state, table, sample_ids=SAMPLE_IDS, pairs=kind.pairs, run_seed=RUN_SEED, precise=True,
        implementation=kind.operation.choose("cpu", backend),
    )  # fmt: skip
    field = standard_normals(SAMPLE_IDS, RUN_SEED, 2**32 - 2, 126).view(3, 2, 63)
    torch.testing.assert_close(state, field, rtol=2.4e-7, atol=0)


@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_independent_of_batch(kind: Kind, backend: str) -> None:
    """Stepping samples one by one gives the same bits as stepping them together."""
    registers = kind.registers((3, 7, 5))
    table, implementation = random_table(kind.width), kind.operation.choose("cpu", backend)

    def step(state: Tensor, output: Tensor, ids: Tensor) -> Tensor:
        affine_step(
            state, table, 1, network_output=output, sample_ids=ids, pairs=kind.pairs, implementation=implementation
        )
        return state

    together = step(registers.state.clone(), registers.output, SAMPLE_IDS)
    for i in range(3):
        alone = step(registers.state[i : i + 1].clone(), registers.output[i : i + 1], SAMPLE_IDS[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_surrounding_memory(kind: Kind, backend: str) -> None:
    """Memory around the state is not modified, for any size."""
    implementation = kind.operation.choose("cpu", backend)
    for elements in (1, 63, 127, 500):
        size = (1 + kind.pairs) * elements
        memory = torch.full((3 * size + 16,), 7.0)
        state, table = memory[8:-8].view(3, size), random_table(kind.width)
        affine_step(state, table, sample_ids=SAMPLE_IDS, pairs=kind.pairs, implementation=implementation)
        assert (memory[:8] == 7).all() and (memory[-8:] == 7).all()


@pytest.mark.parametrize(("kind", "backend"), KINDS)
@pytest.mark.parametrize("shape", [(0, 2), (2, 0)], ids=["no samples", "no elements"])
def test_empty(kind: Kind, backend: str, shape: tuple[int, ...]) -> None:
    """Zero samples and zero elements are valid."""
    state = torch.empty(shape)
    implementation = kind.operation.choose("cpu", backend)
    ids, table = SAMPLE_IDS[: shape[0]], random_table(kind.width)
    affine_step(state, table, sample_ids=ids, pairs=kind.pairs, implementation=implementation)
    assert state.shape == shape


@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_opcheck_and_compile(kind: Kind, backend: str) -> None:
    """Schema, fake and aliasing are consistent; a compiled function that takes the step gives the same bits."""
    registers, table = kind.registers((3, 8, 8)), random_table(kind.width)
    state, saved, history = registers.changed()
    implementation = kind.operation.choose("cpu", backend)
    arguments = (state, saved, history, registers.output, SAMPLE_IDS, table.coefficients, table.control, None, 2, 2, 5)
    opcheck(implementation, (*arguments, False))
    torch._dynamo.reset()

    def step(state: Tensor, output: Tensor) -> Tensor:
        options: dict[str, Any] = {"pairs": kind.pairs, "implementation": implementation}
        affine_step(state, table, 1, network_output=2 * output, sample_ids=SAMPLE_IDS, **options)
        return state + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(state.clone(), registers.output), step(state.clone(), registers.output))


X, T = torch.zeros(2, 4, 3), random_table(WIDTH)


@pytest.mark.parametrize(
    ("error", "sentence", "state", "options"),
    [
        (TypeError, "state is bfloat16; it must be float32 or float64", X.bfloat16(), {}),
        (ValueError, r"state has strides .* must be contiguous", X.transpose(1, 2), {}),
        (TypeError, "network_output is int64; it must be float32 or bfloat16", X, {"network_output": X.long()}),
        (ValueError, r"network_output has shape \(2, 3\)", X, {"network_output": torch.zeros(2, 3)}),
        (ValueError, "network_output is on meta, state on cpu", X, {"network_output": X.to("meta")}),
        (ValueError, r"network_output has strides", X, {"network_output": torch.zeros(2, 3, 4).transpose(1, 2)}),
        (ValueError, r"saved has shape \(1, 4, 3\)", X, {"saved": X[:1]}),
        (TypeError, "saved is float64; it must be float32", X, {"saved": X.double()}),
        (ValueError, r"history has shape \(1, 2, 4, 3\)", X, {"history": X[None], "earlier": 2}),
        (ValueError, "earlier is 1, but there is no history", X, {"earlier": 1}),
        (ValueError, "earlier is 4; a step reads 0 to 3", X, {"history": X[None], "earlier": 4}),
        (ValueError, "row 4 is outside the step table, which has rows 0 to 3", X, {"row": 4}),
        (ValueError, "row -1 is outside", X, {"row": -1}),
        (ValueError, "row 5 is outside", X, {"row": 2, "counter": torch.tensor([3])}),
        (TypeError, "sample_ids is int32; it must be int64", X, {"sample_ids": torch.zeros(2, dtype=torch.int32)}),
        (ValueError, r"sample_ids has shape \(3,\); it must be \(2,\), one per sample", X, {"sample_ids": SAMPLE_IDS}),
        (ValueError, r"run seed -1 is out of range", X, {"run_seed": -1}),
    ],
)
def test_bad_input(error: type[Exception], sentence: str, state: Tensor, options: dict[str, Any]) -> None:
    """The message names the value and what is allowed."""
    with pytest.raises(error, match=sentence):
        affine_step(state, T, **options)


def test_bad_tables_and_pairs() -> None:
    """A table of the other operation and a pair with an odd number of channels are rejected."""
    with pytest.raises(ValueError, match=r"coefficients have shape \(4, 31\); for this step they must be \(rows, 10\)"):
        affine_step(X, random_table(PAIR_WIDTH))
    with pytest.raises(ValueError, match=r"state has shape \(2, 3\); a pair is \(B, 2C, ...\)"):
        affine_step(torch.zeros(2, 3), random_table(PAIR_WIDTH), pairs=True)
    with pytest.raises(ValueError, match=r"network_output has shape .* it must be \(2, 2, 3\) as for half of state"):
        affine_step(X, random_table(PAIR_WIDTH), network_output=X, pairs=True)


def test_unavailable_backend() -> None:
    """Selecting an unavailable backend by name raises an error with the reason."""
    with pytest.raises(RuntimeError, match="backend 'cuda' of affine_step cannot be used: "):
        operation.choose("cpu", "cuda")
